"""Prompts that name what a picture shall show, with the truth of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framework.toyworld.captions import PLACE_PHRASES, accessory_phrase
from framework.toyworld.palette import PATTERNS
from framework.toyworld.pretrain.data import ACCESSORY_NAMES, CATEGORY_NAMES, COLOUR_NAMES
from framework.toyworld.pretrain.prompts import with_article
from framework.toyworld.scene import ACCESSORY_COLOURS, PLACES, too_alike

NOTHING = -1
"""Label of what a prompt leaves open."""


@dataclass(frozen=True)
class AttributePrompts:
    """Prompts and what they name.

    Attributes:
        texts: The prompts.
        labels: ``category``, ``place``, ``colour``, ``pattern`` and ``accessory``: class numbers
            (N,), :data:`NOTHING` where a prompt leaves it open.
    """

    texts: list[str]
    labels: dict[str, Tensor]


def attribute_prompts(
    count: int, seed: int = 0, patterned: float = 0.5, dressed: float = 0.4
) -> AttributePrompts:
    """Draws prompts such as ``a photo of a red mug with white dots, wearing a pink hat, on ...``.

    Args:
        count: How many.
        seed: Of the draws.
        patterned: Share of prompts that name a pattern and its colour.
        dressed: Share of prompts that name an accessory and its colour.
    """
    rng = np.random.default_rng([seed, 7])
    texts, rows = [], []
    for _ in range(count):
        category, place, colour, pattern, accessory = (
            int(rng.integers(len(names)))
            for names in (CATEGORY_NAMES, PLACES, COLOUR_NAMES, PATTERNS[1:], ACCESSORY_NAMES[1:])
        )
        first = COLOUR_NAMES[colour]
        second = str(rng.choice([c for c in COLOUR_NAMES if not too_alike(first, c)]))
        worn = str(rng.choice(ACCESSORY_COLOURS))
        text = f"a photo of {with_article(f'{first} {CATEGORY_NAMES[category]}')}"
        row = [category, place, colour, NOTHING, NOTHING]
        if rng.random() < patterned:
            text += f" with {second} {PATTERNS[1 + pattern]}"
            row[3] = 1 + pattern
        if rng.random() < dressed:
            text += f", {accessory_phrase(ACCESSORY_NAMES[1 + accessory], worn)}"
            row[4] = 1 + accessory
        texts.append(f"{text}, {PLACE_PHRASES[PLACES[place]]}")
        rows.append(row)
    columns = torch.tensor(rows, dtype=torch.long).reshape(-1, 5).T
    names = ("category", "place", "colour", "pattern", "accessory")
    return AttributePrompts(texts, dict(zip(names, columns, strict=True)))
