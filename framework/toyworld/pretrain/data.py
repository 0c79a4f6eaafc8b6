"""Batches of the rendered world as tensors: pictures, half-size pictures, masks, labels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.objects import CATEGORIES
from framework.toyworld.palette import COLOURS, PATTERNS
from framework.toyworld.scene import ACCESSORIES, PLACES, SceneSpec


def as_pictures(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in -1..1, channels last in memory."""
    pictures = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return pictures.float().div_(127.5).sub_(1.0)


def pictures_of(world: RenderedWorld, indices: np.ndarray, size: int | None = None) -> Tensor:
    """Pictures of a set.

    Args:
        world: The set.
        indices: Which, (B,).
        size: Side in pixels, a divisor of the renders' side: smaller ones are averages of pixels.

    Returns:
        (B, 3, size, size) in -1..1.
    """
    order = np.argsort(indices)
    images = np.empty((len(indices), *world.images.shape[1:]), np.uint8)
    images[order] = world.images[indices[order]]
    pictures = as_pictures(images)
    if size is not None and size != pictures.shape[-1]:
        pictures = F.avg_pool2d(pictures, pictures.shape[-1] // size)
    return pictures


def masks_of(world: RenderedWorld, indices: np.ndarray, size: int) -> Tensor:
    """Fraction of the object in each cell of a ``size`` x ``size`` grid, (B, 1, size, size)."""
    masks = torch.from_numpy(np.stack([world.masks[i] for i in indices]))[:, None].float()
    return F.avg_pool2d(masks, masks.shape[-1] // size)


CATEGORY_NAMES: tuple[str, ...] = tuple(CATEGORIES)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
ACCESSORY_NAMES: tuple[str, ...] = ("nothing", *ACCESSORIES)


def labels_of(scenes: list[SceneSpec]) -> dict[str, Tensor]:
    """Class numbers of scenes, each (B,).

    ``category``, ``place``, main ``colour``, its pattern's ``colour2`` (the main colour itself
    where the main part has no pattern), main ``pattern`` and ``accessory`` (0: nothing).
    """
    categories = [CATEGORY_NAMES.index(s.object.category) for s in scenes]
    places = [PLACES.index(s.place) for s in scenes]
    colours = [COLOUR_NAMES.index(s.object.parts[s.object.main].colour) for s in scenes]
    mains = [s.object.parts[s.object.main] for s in scenes]
    seconds = [COLOUR_NAMES.index(m.colour2 if m.pattern != "solid" else m.colour) for m in mains]
    return {
        "category": torch.tensor(categories),
        "place": torch.tensor(places),
        "colour": torch.tensor(colours),
        "colour2": torch.tensor(seconds),
        "pattern": torch.tensor([PATTERNS.index(m.pattern) for m in mains]),
        "accessory": torch.tensor(
            [ACCESSORY_NAMES.index(s.accessory.kind if s.accessory else "nothing") for s in scenes]
        ),
    }


def shift(pictures: Tensor, largest: int, generator: np.random.Generator) -> Tensor:
    """Moves each picture by up to ``largest`` pixels; the edge is repeated. (B, 3, H, W)."""
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (largest,) * 4, mode="replicate")
    tops = generator.integers(0, 2 * largest + 1, size=(len(pictures), 2))
    crops = [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, tops, strict=True)]
    return torch.stack(crops)


def warp(
    pictures: Tensor, masks: Tensor, strength: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Zooms, turns, stretches and moves each picture and its mask at random; edges are mirrored.

    Args:
        pictures: (B, 3, H, W).
        masks: (B, 1, H, W).
        strength: 1 zooms by 0.78 ... 1.22, turns by about 3 degrees, moves by up to 8 %.
        generator: Randomness.
    """
    count = len(pictures)
    zoom = np.exp(strength * generator.uniform(-0.25, 0.2, count))
    aspect = np.exp(strength * generator.uniform(-0.07, 0.07, count))
    angle = strength * generator.normal(0.0, 0.06, count)
    moves = strength * generator.uniform(-0.16, 0.16, (count, 2))
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    rows = [
        np.stack([cosine * aspect, -sine, moves[:, 0]], axis=1),
        np.stack([sine, cosine / aspect, moves[:, 1]], axis=1),
    ]
    both = torch.cat([pictures, masks], dim=1)
    matrices = torch.from_numpy(np.stack(rows, axis=1)).float()
    grid = F.affine_grid(matrices, list(both.shape), align_corners=False)
    both = F.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    return both[:, :-1], both[:, -1:].clamp(0.0, 1.0)


def brighten(pictures: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Random gain and offset of each picture, (B, 3, H, W) in -1..1."""
    amounts = generator.uniform(-strength, strength, size=(2, len(pictures), 1, 1, 1))
    gain, offset = torch.from_numpy(amounts).float()
    return pictures * (1.0 + gain) + offset
