"""The prompts that stand for classes, and captions as token ids."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from transformers import CLIPTokenizer

from framework.toyworld.captions import PLACE_PHRASES, caption
from framework.toyworld.pretrain.data import CATEGORY_NAMES, COLOUR_NAMES
from framework.toyworld.scene import PLACES, SceneSpec


def with_article(words: str) -> str:
    """Puts ``a`` or ``an`` before words."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def category_prompts() -> list[str]:
    """A prompt for each category, in the order of ``CATEGORY_NAMES``."""
    return [f"a photo of {with_article(name)}" for name in CATEGORY_NAMES]


def place_prompts() -> list[str]:
    """A prompt for each place, in the order of ``PLACES``."""
    return [f"a photo of a toy, {PLACE_PHRASES[place]}" for place in PLACES]


def colour_prompts(category: str) -> list[str]:
    """A prompt for each main colour of a category, in the order of ``COLOUR_NAMES``."""
    return [f"a photo of {with_article(f'{colour} {category}')}" for colour in COLOUR_NAMES]


def all_colour_prompts() -> list[str]:
    """The colour prompts of every category, category by category."""
    return [text for category in CATEGORY_NAMES for text in colour_prompts(category)]


def token_ids(tokenizer: CLIPTokenizer, texts: list[str], length: int | None = None) -> Tensor:
    """Token ids (B, length), padded and cut.

    Args:
        tokenizer: The tokenizer.
        texts: B texts.
        length: Tokens, or None for the tokenizer's longest; 0 for the longest of these texts.
    """
    longest = length == 0
    return tokenizer(
        texts,
        padding="longest" if longest else "max_length",
        truncation=True,
        max_length=length or tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def random_captions(
    scenes: list[SceneSpec], rng: np.random.Generator, full: float = 0.0
) -> list[str]:
    """A newly drawn caption of each scene; a fraction ``full`` of them leaves nothing out."""
    return [caption(scene, None if rng.random() < full else rng) for scene in scenes]
