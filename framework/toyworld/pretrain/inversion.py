"""What pictures of held-out objects are worth after Textual Inversion, without matching."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from framework.backbones.loading import load_pipeline
from framework.concepts.folders import load_concept
from framework.concepts.text import fill_prompt
from framework.config import load_config
from framework.metrics.scale import make_scale
from framework.metrics.similarity import mean_cosine
from framework.toyworld.captions import PLACE_PHRASES
from framework.toyworld.concepts import CONCEPTS, PROMPTS
from framework.toyworld.pretrain import identity
from framework.toyworld.pretrain.data import CATEGORY_NAMES, as_pictures
from framework.toyworld.pretrain.drawing import EvaluateConfig, generate, settings_of
from framework.toyworld.pretrain.judge import Judge
from framework.toyworld.pretrain.measures import Figure, figure
from framework.toyworld.scene import PLACES
from framework.training.personalize import learn, plug_in

logger = logging.getLogger(__name__)


def place_of(prompt: str) -> int:
    """Number of the place a prompt ends with.

    Raises:
        ValueError: It ends with none.
    """
    for number, place in enumerate(PLACES):
        if prompt.endswith(PLACE_PHRASES[place]):
            return number
    raise ValueError(f"prompt {prompt!r} ends with no place")


def drawn(
    folder: Path, name: str, prompts: Sequence[str], seed: int, work: Path
) -> tuple[Tensor, Tensor]:
    """Learns a concept with the world's settings and draws every prompt.

    Args:
        folder: The exported folder.
        name: Of the concept.
        prompts: With ``{}``.
        seed: Of training and noise.
        work: Where what was learned goes, and is found again.

    Returns:
        The pictures (N, 3, H, W) and the references (M, 3, H, W), in -1..1.
    """
    overrides = [f"concept.name={name}", f"model.path={folder}", f"seed={seed}"]
    config = load_config(None, [*overrides, "personalizer=textual_inversion"])
    pipe, concept = load_pipeline(config.model), load_concept(config)
    restore = plug_in(pipe, learn(pipe, concept, config, work).path, concept, config)
    guidance, steps = settings_of(folder, EvaluateConfig())
    pictures = generate(
        pipe, [fill_prompt(text, concept) for text in prompts], guidance, steps, seed=seed
    )
    restore()
    return pictures, as_pictures(np.stack([np.asarray(image) for image in concept.images]))


def learned_figures(
    folder: Path, count: int, judge: Judge, work: Path, seed: int = 0
) -> dict[str, Figure]:
    """Place and identity of held-out objects after Textual Inversion, over all prompts.

    Args:
        folder: The exported folder.
        count: How many of the concepts, from the first.
        judge: Judges.
        work: Where what was learned goes.
        seed: Of training and noise.

    Returns:
        ``place``: share of pictures with the place of their prompt; ``category``, likewise;
        ``identity``: 0 as similar to the references as other concepts' pictures are, 1 as similar
        as they are to each other. Intervals are over concepts.
    """
    names = list(CONCEPTS)[:count]
    places = torch.tensor([place_of(text) for text in PROMPTS])
    rows: dict[str, list[Any]] = {"place": [], "category": [], "identity": [], "owner": []}
    own, similar, start = {}, {}, time.monotonic()
    for number, name in enumerate(names, 1):
        pictures, references = drawn(folder, name, PROMPTS, seed, work / name)
        category = torch.full((len(PROMPTS),), CATEGORY_NAMES.index(CONCEPTS[name].category))
        found = judge.told(pictures, category)
        rows["place"] += (found["place"] == places).tolist()
        rows["category"] += (found["category"] == category).tolist()
        rows["owner"] += [name] * len(PROMPTS)
        own[name] = identity.embed(judge.identity, references)
        similar[name] = mean_cosine(identity.embed(judge.identity, pictures), own[name])
        save(pictures, work / name)
        left = (time.monotonic() - start) / number * (len(names) - number) / 60.0
        logger.info("%s learned, %.1f minutes left", name, left)
    for name in names:
        others = [value for other, value in own.items() if other != name]
        scale = make_scale(own[name], others)
        rows["identity"] += [scale.place(float(value)) for value in similar[name]]
    owners = rows.pop("owner")
    return {
        name: figure(values, owners)
        for name, values in rows.items()
        if all(value is not None for value in values)
    }


def save(pictures: Tensor, folder: Path) -> None:
    """Writes pictures (N, 3, H, W) in -1..1 as ``0.png``, ``1.png``, ..."""
    for number, picture in enumerate(((pictures + 1.0) * 127.5).round().byte()):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
