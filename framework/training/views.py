"""A picture as the squares a model is trained on: crops, and sizes with words for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from framework.concepts.preprocess import prepare_image
from framework.concepts.text import unknown_words

#: Places a picture that is not square is cut at, with ``crop: random``.
RANDOM_CROPS = 4
#: Sizes a picture is shown in, with ``random_resize``.
RANDOM_SIZES = 8
#: Words for a picture that was made smaller, and for one that was made larger (Kumari et al. 2023).
SMALL = ("very small", "far away")
LARGE = ("zoomed in", "close up")


@dataclass(frozen=True)
class View:
    """One square.

    Attributes:
        pixels: (1, 3, H, W) in [-1, 1].
        frame: height and width of the original picture, top and left of the square in the resized
            one, in pixels: what Stable Diffusion XL is told about a picture.
        right: columns of the resized picture to the right of the square.
        valid: (1, 1, H, W), 1 where the square shows the picture; None: everywhere.
        note: words before the prompt, or ``""``.
    """

    pixels: Tensor
    frame: tuple[int, int, int, int]
    right: int = 0
    valid: Tensor | None = None
    note: str = ""


def views(image: Image.Image, height: int, width: int, crop: str, seed: int = 0) -> list[View]:
    """A picture as the model's squares.

    Args:
        image: the picture.
        height: rows in pixels.
        width: columns.
        crop: ``center``; ``stretch``; or ``random``: :data:`RANDOM_CROPS` places along its longer
            side, or the picture itself where it has the model's shape already.
        seed: of the random places.
    """
    original = image.height, image.width
    if crop == "stretch":
        return [View(prepare_image(image, height, width, "stretch"), (*original, 0, 0))]
    ratio = max(height / image.height, width / image.width)
    size = max(width, round(image.width * ratio)), max(height, round(image.height * ratio))
    slack = size[0] - width, size[1] - height
    if crop == "center" or max(slack) == 0:
        corner = slack[1] // 2, slack[0] // 2
        square = prepare_image(image, height, width)
        return [View(square, (*original, *corner), slack[0] - corner[1])]
    covered = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    rng = np.random.default_rng([seed % 2**64, 3])
    corners = [[int(rng.integers(0, room + 1)) for room in slack] for _ in range(RANDOM_CROPS)]
    return [
        View(
            prepare_image(covered.crop((left, top, left + width, top + height)), height, width),
            (*original, top, left),
            slack[0] - left,
        )
        for left, top in corners
    ]


def mirrored(view: View) -> View:
    """The same square of the mirrored picture."""
    return replace(
        view,
        pixels=view.pixels.flip(-1),
        valid=None if view.valid is None else view.valid.flip(-1),
        frame=(*view.frame[:3], view.right),
        right=view.frame[3],
    )


def resized(
    view: View, count: int, seed: int, notes: tuple[Sequence[str], Sequence[str]]
) -> list[View]:
    """A square in several sizes, as Custom Diffusion shows it.

    Two times out of three it is made smaller, to 0.4 up to 1 of its side, and put somewhere on
    grey; else larger, to 1.2 up to 1.4, and cut. Below 0.6 and above 1 words say so.

    Args:
        view: the square.
        count: how many.
        seed: of sizes, places and words.
        notes: words for small and for large ones; an empty list: none.

    Returns:
        ``count`` views.
    """
    side = tuple(view.pixels.shape[-2:])
    rng = np.random.default_rng([seed % 2**64, 5])
    found = []
    for _ in range(count):
        smaller = rng.random() < 2 / 3
        ratio = rng.uniform(0.4, 1.0) if smaller else rng.uniform(1.2, 1.4)
        size = tuple(round(length * ratio) for length in side)
        scaled = interpolate(view.pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
        room = [abs(a - b) for a, b in zip(size, side, strict=True)]
        top, left = (int(rng.integers(0, each + 1)) for each in room)
        words = list(notes[0] if ratio < 0.6 else notes[1] if ratio > 1 else ())
        note = words[int(rng.integers(len(words)))] if words else ""
        if smaller:
            place = (..., slice(top, top + size[0]), slice(left, left + size[1]))
            pixels, valid = torch.zeros_like(view.pixels), torch.zeros_like(view.pixels[:, :1])
            pixels[place], valid[place] = scaled, 1.0
            found.append(replace(view, pixels=pixels, valid=valid, note=note))
        else:
            frame = (*view.frame[:2], view.frame[2] + top, view.frame[3] + left)
            pixels = scaled[..., top : top + side[0], left : left + side[1]]
            found.append(View(pixels, frame, view.right + room[1] - left, None, note))
    return found


def known_notes(tokenizers: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Of the words for sizes, those that every tokenizer knows."""

    def known(texts: Sequence[str]) -> list[str]:
        return [text for text in texts if not any(unknown_words(each, text) for each in tokenizers)]

    return known(SMALL), known(LARGE)
