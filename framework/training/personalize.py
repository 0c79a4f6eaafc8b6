"""Learning a concept once: train, note it, and use the same weights when asked again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.config.page import Config, to_plain
from framework.config.resources import is_there, resolve_path
from framework.errors import UserError
from framework.interfaces import PERSONALIZERS
from framework.runs.atomic import read_json, write_atomic
from framework.training.formats.recognise import recognise
from framework.types import Concept

logger = logging.getLogger(__name__)

NOTE = "learned.json"


@dataclass(frozen=True)
class Learned:
    """Weights of a concept.

    Attributes:
        path: what the personalizer's ``load`` takes.
        seconds: wall time of the training that made them; None if they came from elsewhere.
        reused: whether they were there already.
        cpu_seconds: processor time of that training, all threads together.
    """

    path: Path
    seconds: float | None
    reused: bool
    cpu_seconds: float | None = None


def learn(pipe: Any, concept: Concept, config: Config, folder: Path) -> Learned:
    """Train the configured personalizer, unless an identical training finished in the folder.

    ``concept.weights`` of the configuration goes before: then nothing is trained.

    Args:
        pipe: the pipeline; left as it was.
        concept: the concept.
        config: names the personalizer, the model and the seed.
        folder: for weights, checkpoints and the note of what they were made from.

    Raises:
        UserError: the images or words cannot be used.
    """
    if config.concept.weights is not None:
        return Learned(resolve_path(config.concept.weights), None, True)
    identity = fingerprint(concept, config)
    note = folder / NOTE
    found = read_json(note)
    if found.get("identity") == identity and (folder / str(found.get("file"))).exists():
        path = folder / found["file"]
        return Learned(path, found.get("seconds"), True, found.get("cpu_seconds"))
    start, used = time.perf_counter(), time.process_time()
    path = config.part("personalizer").train(pipe, concept, folder, seed=config.seed)
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    said = {
        "identity": identity,
        "file": str(Path(path).relative_to(folder)),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
    }
    write_atomic(note, json.dumps(said, indent=2).encode())
    return Learned(Path(path), seconds, False, cpu)


def one_device(config: Config) -> None:
    """Refuse a training on several devices where more follows than the training.

    Lightning starts the program again for each further device, and every copy would do the rest.

    Raises:
        UserError: with the way to use several devices.
    """
    devices = config.personalizer.get("devices", 1)
    if devices != 1 and config.concept.weights is None:
        raise UserError(
            f"personalizer.devices is {devices}, which is for dreammatcher train alone; here each "
            "concept is learned on one device. Leave it at 1 (dreammatcher ablate spreads concepts "
            "over run.devices), or train beforehand and give concept.weights."
        )


def personalizer_for(path: Path, config: Config) -> Any:
    """The personalizer that loads some weights: found out from them, whatever is configured.

    Args:
        path: file or folder.
        config: the configured personalizer is taken if it loads the format, or if the format is not
            known (a plug-in's own); else the method that does, with its entry in ``personalizers``.

    Raises:
        UserError: the weights do not exist, or nothing loads them.
    """
    configured = config.part("personalizer")
    if not is_there(path):
        recognise(path)
    try:
        kind = recognise(path).kind
    except UserError:
        if configured.formats:
            raise
        return configured
    if kind in configured.formats:
        return configured
    return PERSONALIZERS.get(kind)(**config.personalizers.get(kind, {}))


def plug_in(pipe: Any, path: Path, concept: Concept, config: Config) -> Callable[[], None]:
    """Load weights of any known format into a pipeline.

    Args:
        pipe: the pipeline.
        path: file or folder.
        concept: names the placeholder.
        config: see :func:`personalizer_for`.

    Returns:
        A function that restores the pipeline.

    Raises:
        UserError: nothing loads them, or they do not fit the model.
    """
    personalizer = personalizer_for(path, config)
    if personalizer.formats:
        logger.info("Found %s in %s.", recognise(path).text, path)
    return personalizer.load(pipe, path, concept)


def fingerprint(concept: Concept, config: Config) -> str:
    """A hash of all that learned weights depend on: words, pictures, personalizer, model, seed."""
    plain = to_plain(config)
    model = {key: plain["model"][key] for key in ("path", "variant", "dtype")}
    told = [concept.placeholder, concept.class_name, plain["personalizer"], model, config.seed]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for image in concept.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
