"""Drawing batches with one pipeline: weights learned once, the reference prepared once."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from framework.backbones.loading import load_pipeline
from framework.composer import make_sampler
from framework.concepts.text import SLOT, check_words, fill_prompt
from framework.config.page import Config
from framework.experiments.batches import CellBatch, order
from framework.experiments.cells import Cell, Setting, slug
from framework.experiments.folder import LOG, whole, write_picture
from framework.experiments.options import RunConfig
from framework.metrics.text import plain_prompt
from framework.runs.atomic import write_atomic
from framework.runs.machine import hardware
from framework.runs.progress import no_progress
from framework.sampling.cache import CacheConfig, make_cache
from framework.sampling.cache.store import Cache, MemoryCache
from framework.training.personalize import fingerprint, learn, plug_in
from framework.types import Concept, Masks, SamplerOutput
from framework.viz.points import spread_points

logger = logging.getLogger(__name__)


class Artist:
    """Draws batches, one pipeline in memory at a time.

    Args:
        weights: folder of learned weights.
        learns: whether concepts are learned; else the model knows them.
        device: where the models run.
        traced: whether the last matched step is kept of what is drawn.
    """

    def __init__(
        self, weights: Path, learns: bool = True, device: str = "cpu", traced: bool = True
    ) -> None:
        self.weights, self.learns = weights, learns
        self.device, self.traced = device, traced
        self._model: tuple[str, Any] | None = None
        self._loaded: tuple[str, Callable[[], Any]] | None = None
        self._cache: tuple[CacheConfig, Cache] | None = None

    def draw(self, batch: CellBatch) -> SamplerOutput:
        """The pictures of a batch, all of them, with the last matched step."""
        setting = batch.setting
        concept = setting.subject
        pipe = self.pipe(setting.config)
        self._personalize(pipe, concept, setting.config)
        cache = self._reference_cache(setting.config)
        sampler = make_sampler(pipe, concept, setting.config, cache)
        with no_progress():
            return sampler(
                [cell.prompt for cell in batch.cells],
                seed=[cell.noise_seed for cell in batch.cells],
                return_trace="last" if self.traced else False,
            )

    def rehearse(self, setting: Setting) -> None:
        """Run the parts of a setting together once, before anything is learned.

        One latent of the plain noun is drawn for as many steps as it takes until the injector acts,
        so that layers, grids, words or parts that do not fit show at once and not after a training.

        Raises:
            UserError: whatever of the configuration does not fit the model.
        """
        config, concept = setting.config, setting.subject
        pipe = self.pipe(config)
        self._unload()
        for text in dict.fromkeys(
            [*(cell.prompt for cell in setting.cells), config.sampler.reference_prompt]
        ):
            check_words(pipe.tokenizer, plain_prompt(fill_prompt(text, concept), concept))
        if config.concept.weights is None and concept.placeholder and self.learns:
            config.part("personalizer").check(pipe, concept)
        plain = replace(concept, placeholder="")
        steps = min(config.injector.get("start_step", 1) + 1, config.sampler.num_inference_steps)
        with no_progress():
            sampler = make_sampler(pipe, plain, config)
            sampler(SLOT, seed=0, num_inference_steps=steps, output_type="latent")

    def learn(self, config: Config, concept: Concept) -> Path | None:
        """Learned weights of a concept; one process trains, others wait. None without a word."""
        if config.concept.weights is None and not (concept.placeholder and self.learns):
            return None
        if config.concept.weights is not None:
            return learn(None, concept, config, self.weights).path
        place = weights_folder(self.weights, concept, config)
        pipe = self.pipe(config)
        self._unload()
        with _alone(place), no_progress():
            began = time.perf_counter()
            learned = learn(pipe, concept, config, place)
            if not learned.reused:
                logger.info("learned %s in %.0f s", concept.name, time.perf_counter() - began)
        return learned.path

    def close(self) -> None:
        """Take learned weights out of the pipeline."""
        self._unload()
        self._model = None

    def pipe(self, config: Config) -> Any:
        """The pipeline of a configuration, loaded once."""
        key = order(config)[0]
        if self._model is None or self._model[0] != key:
            self.close()
            pipe = load_pipeline(replace(config.model, device=self.device))
            self._model = key, pipe
        return self._model[1]

    def _personalize(self, pipe: Any, concept: Concept, config: Config) -> None:
        key = order(config)[1]
        if self._loaded is not None and self._loaded[0] == key:
            return
        self._unload()
        path = self.learn(config, concept)
        if path is None:
            return
        if config.concept.weights is None:
            self._loaded = key, config.part("personalizer").load(pipe, path, concept)
        else:  # of whatever kind
            self._loaded = key, plug_in(pipe, path, concept, config)

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded[1]()
            self._loaded = None
        self._cache = None

    def _reference_cache(self, config: Config) -> Cache:
        """The reference of one concept, kept until another's weights are loaded."""
        if config.cache.where != "memory":
            return make_cache(config.cache)
        if self._cache is None or self._cache[0] != config.cache:
            size = int(config.cache.max_gigabytes * 1e9)
            self._cache = config.cache, MemoryCache(size, config.cache.max_entries)
        return self._cache[1]


def weights_folder(root: Path, concept: Concept, config: Config) -> Path:
    """Where a concept's weights lie: one folder for each personalizer, model and seed."""
    kind = slug(str(config.personalizer["name"]).replace(":", "."))
    return root / f"{slug(concept.name)}-{kind}-{fingerprint(concept, config)[:12]}"


def seen_of(result: SamplerOutput, row: int) -> dict[str, Tensor]:
    """What the last matched step saw of one picture, from its conditional half.

    Returns:
        ``flow`` (H, W, 2) in cells, ``confidence``, ``mask`` and ``reference_mask`` (H, W) in
        [0, 1], ``step`` (scalar); empty where nothing was matched.
    """
    step = result.trace[-1] if result.trace else None
    if step is None or step.flow is None or step.confidence is None:
        return {}
    place = row - len(step.latents)
    flow, confidence = step.flow[place].float(), step.confidence[place].float()
    masks = step.masks or Masks(*[torch.ones_like(step.confidence)] * 2)
    return {
        "flow": flow,
        "confidence": confidence,
        "mask": masks.target[place].float(),
        "reference_mask": masks.reference[place].float(),
        "step": torch.tensor(step.step),
    }


def flow_file(folder: Path, cell: Cell) -> Path:
    """Where :func:`seen_of` of a picture is kept."""
    return folder / LOG / "flows" / f"{cell.id}.safetensors"


def matches_of(result: SamplerOutput, row: int, count: int) -> list[list[float]]:
    """Spread-out matches of one picture in its last matched step.

    Returns:
        ``[x, y, x', y', confidence]`` each: from the picture to the reference, as shares of the
        side, cells' centres.
    """
    seen = seen_of(result, row)
    if not seen:
        return []
    flow, confidence, mask = (seen[name] for name in ("flow", "confidence", "mask"))
    height, width = confidence.shape
    found = []
    for x, y in spread_points(mask, count):
        dx, dy = flow[y, x].tolist()
        found.append(
            [
                round((x + 0.5) / width, 4),
                round((y + 0.5) / height, 4),
                round((x + dx + 0.5) / width, 4),
                round((y + dy + 0.5) / height, 4),
                round(float(confidence[y, x]), 3),
            ]
        )
    return found


def write_batch(folder: Path, batch: CellBatch, result: SamplerOutput, run: RunConfig) -> int:
    """Write the pictures of a batch that are not there; how many those were."""
    written = 0
    first = batch.setting.cells[0].seed
    for row, (cell, image) in enumerate(zip(batch.cells, result.images, strict=True)):
        if whole(folder, cell):
            continue
        sampler = batch.setting.config.sampler
        extra = {
            "reference_index": sampler.reference_index,
            "resize": sampler.resize,
            "matches": matches_of(result, row, run.matches),
        }
        seen = seen_of(result, row)
        if seen and cell.prompt_index < run.flows and cell.seed == first:
            content = {name: tensor.contiguous().cpu() for name, tensor in seen.items()}
            write_atomic(flow_file(folder, cell), save(content))
        write_picture(folder, cell, image, extra)
        written += 1
    return written


def note_time(folder: Path, batch: CellBatch, began: float, seconds: float, device: str) -> None:
    """``log/batches/<id>.json``: when, how long, how much memory; what a picture is not made of."""
    said = {
        "variant": batch.setting.variant,
        "concept": batch.setting.concept,
        "cells": len(batch.cells),
        "began": began,
        "seconds": round(seconds, 4),
        "memory_mib": round(memory_peak(device), 1),
        "device": device,
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "process": os.getpid(),
    }
    write_atomic(batch_note(folder, batch), json.dumps(said) + "\n")


def batch_note(folder: Path, batch: CellBatch) -> Path:
    """Where :func:`note_time` writes."""
    return folder / LOG / "batches" / f"{batch.id}.json"


def reset_memory(device: str) -> None:
    """Start measuring the highest memory use anew, where that can be done."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_peak(device: str) -> float:
    """Highest MiB since :func:`reset_memory`: of the accelerator, or of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in a folder; the lock goes with the process, also if it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
