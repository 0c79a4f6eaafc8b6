"""The quality of exported folders, with intervals, by one judge."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from framework.toyworld.captions import caption
from framework.toyworld.concepts import CONCEPTS
from framework.toyworld.dataset import RenderedWorld, training_scene
from framework.toyworld.pretrain import identity, vae
from framework.toyworld.pretrain.attribute_prompts import attribute_prompts
from framework.toyworld.pretrain.data import as_pictures, labels_of, pictures_of
from framework.toyworld.pretrain.drawing import EvaluateConfig, generate, settings_of
from framework.toyworld.pretrain.inversion import learned_figures
from framework.toyworld.pretrain.judge import Judge
from framework.toyworld.pretrain.measures import Figure, distance_multiple, figure
from framework.toyworld.pretrain.sheets import save_grid
from framework.toyworld.render import render
from framework.toyworld.scene import PLACES, sample_scene

logger = logging.getLogger(__name__)

HELD_OUT_SEED = 2
"""Of the renders and captions of the distance: neither the training's nor the held-out set's."""


def concept_views(views: int = 4, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Renders of the held-out concepts, each view in another place.

    Returns:
        Pictures (N, 3, 128, 128) in -1..1 and the number of each one's concept, (N,).
    """
    images, owners = [], []
    for number, spec in enumerate(CONCEPTS.values()):
        rng = np.random.default_rng([seed, number])
        for place in rng.permutation(PLACES)[:views]:
            scene = sample_scene(rng, spec, place=str(place), condition=None)
            images.append(render(scene, 128).rgb)
            owners.append(number)
    return as_pictures(np.stack(images)), np.array(owners)


def identity_figures(judge: Judge, world: RenderedWorld, pictures: Tensor) -> dict[str, Figure]:
    """Share of pictures, (N, 3, H, W), whose object is found again in another view.

    Returns:
        ``concepts``: among all held-out concepts, by 11 views of each; intervals are over concepts.
        ``same_category``: among 12 held-out objects of one category; over objects.
    """
    shown, concepts = concept_views(views=len(PLACES))
    everyone = np.zeros(len(concepts))
    features = identity.embed(judge.identity, shown)
    right, asked = identity.retrieved(features, concepts, everyone, len(CONCEPTS))
    table = {"concepts": figure(right, concepts[asked].tolist())}
    names = np.array([scene.object.category for scene in world.scenes])
    features = identity.embed(judge.identity, pictures)
    right, asked = identity.retrieved(features, world.object_ids, names)
    return table | {"same_category": figure(right, world.object_ids[asked].tolist())}


@torch.no_grad()
def own_figures(folder: Path, world: RenderedWorld) -> dict[str, Any]:
    """What a folder's autoencoder, CLIP, probe and identity encoder are worth on renders."""
    settings_of(folder, EvaluateConfig())
    judge = Judge.load(folder)
    coder = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).vae
    pictures = pictures_of(world, np.arange(len(world)))
    some = np.arange(0, len(pictures), max(1, len(pictures) // 256))
    half = torch.nn.functional.avg_pool2d(pictures[some], 2)
    decoded = vae.reconstruct(coder, pictures[some])
    labels = labels_of(world.scenes)
    owners = world.object_ids[some].tolist()
    table: dict[str, Any] = {
        "autoencoder": {
            "psnr_db": figure(vae.psnrs(decoded, pictures[some]), owners),
            "psnr_half_db": figure(vae.psnrs(vae.reconstruct(coder, half), half), owners),
        },
        "judge_on_renders": judge.verdicts(pictures, labels),
        "judge_on_decoded": judge.verdicts(decoded, {k: v[some] for k, v in labels.items()}),
    }
    if judge.identity is not None:
        table["identity"] = identity_figures(judge, world, pictures)
    return table


def held_out_scenes(count: int) -> tuple[list[str], Tensor]:
    """Captions and renders (N, 3, 128, 128) of scenes that no set holds."""
    scenes = [training_scene(HELD_OUT_SEED, index, 0) for index in range(count)]
    rng, images, start = np.random.default_rng(HELD_OUT_SEED), [], time.monotonic()
    for scene in scenes:
        images.append(render(scene, 128).rgb)
        if len(images) % 256 == 0:
            left = (time.monotonic() - start) / len(images) * (count - len(images)) / 60.0
            logger.info("rendered %d of %d, %.1f minutes left", len(images), count, left)
    return [caption(scene, rng) for scene in scenes], as_pictures(np.stack(images))


@torch.no_grad()
def drawn_figures(
    folder: Path,
    config: EvaluateConfig,
    judge: Judge,
    held_out: tuple[list[str], Tensor] | None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """What a folder draws: attributes named in prompts, and the distance to renders.

    Args:
        folder: The exported folder.
        config: Options.
        judge: Judges.
        held_out: Captions and renders of the distance; None leaves it out.
        sheet: PNG to write 64 of the pictures to.
    """
    guidance, steps = settings_of(folder, config)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    table: dict[str, Any] = {"guidance": guidance, "steps": steps}
    if config.count:
        asked = attribute_prompts(config.count, config.seed)
        images = generate(pipeline, asked.texts, guidance, steps, seed=config.seed)
        table["text_to_image"] = judge.verdicts(images, asked.labels)
        if sheet is not None:
            save_grid(images[:64], sheet, 8)
        logger.info("%s", table["text_to_image"])
    if held_out is not None and judge.identity is not None:
        texts, real = held_out
        images = generate(pipeline, texts, guidance, steps, seed=config.seed + 1)
        features = [identity.embed(judge.identity, pictures) for pictures in (images, real)]
        table["distance"] = distance_multiple(*features)
        logger.info("%s", table["distance"])
    return table


def evaluate(
    folder: Path, world: RenderedWorld, config: EvaluateConfig, work: Path | None = None
) -> dict[str, Any]:
    """Measures an exported folder, and where one is named another beside it.

    Args:
        folder: The exported folder.
        world: Held-out renders.
        config: Options.
        work: Where sheets of pictures and learned concepts go; nowhere if None.

    Returns:
        ``models``: for ``after`` (the folder) and ``before`` the figures by part, and ``options``.
    """
    folders = {"before": Path(config.before)} if config.before else {}
    folders["after"] = folder
    judge = Judge.load(Path(config.judge) if config.judge else folder)
    held_out = held_out_scenes(config.distance) if config.distance else None
    table: dict[str, Any] = {}
    for name, path in folders.items():
        sheet = work / f"text_to_image_{name}.png" if work is not None else None
        table[name] = own_figures(path, world)
        logger.info("%s: %s", name, table[name])
        table[name] |= drawn_figures(path, config, judge, held_out, sheet)
        if config.concepts and work is not None:
            table[name]["learned"] = learned_figures(
                path, config.concepts, judge, work / f"learned_{name}"
            )
    options = {
        name: value
        for name, value in vars(config).items()
        if name not in ("before", "judge", "threads")
    }
    return {"models": table, "options": options}
