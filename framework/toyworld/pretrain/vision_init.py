"""A start for small vision transformers that trains several times faster than random weights.

With random weights attention is nearly uniform, so that a transformer first sees a bag of patches
and takes long to find shapes. Here every head begins by looking at a neighbour, as a convolution
does, and patches begin as whitened principal components.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain.data import pictures_of


def whitening(patches: Tensor, width: int, floor: float = 0.01) -> Tensor:
    """Filters that make the principal components of patches about equally strong.

    Without them flat colour drowns the shapes, which are 100 times weaker.

    Args:
        patches: (N, D) samples.
        width: Number of filters, at most D.
        floor: Components weaker than this fraction of the strongest are not raised further.

    Returns:
        (width, D), the strongest component first.
    """
    moments = patches.T @ patches / len(patches)
    strengths, directions = torch.linalg.eigh(moments)
    strengths, directions = strengths.flip(0), directions.flip(1)
    scales = (strengths[:width] + floor * strengths[0]).rsqrt()
    return (directions[:, :width] * scales).T


def grid_code(side: int, width: int) -> Tensor:
    """Position code of a grid, (side * side, width): sines and cosines of row and of column.

    Columns ``4 k ... 4 k + 3`` are sine and cosine of the row, then of the column, at rate ``k``.
    """
    count = width // 4
    rates = 1.0 / 4.0 ** (torch.arange(count) / count)
    angles = torch.arange(side)[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1)
    rows = waves[:, None].expand(side, side, count, 2)
    columns = waves[None].expand(side, side, count, 2)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)


def offset_turn(rows: float, columns: float, width: int) -> Tensor:
    """Matrix (width, width) that maps the code of a cell to the code of the cell at an offset."""
    count = width // 4
    rates = 1.0 / 4.0 ** (torch.arange(count) / count)
    turn = torch.zeros(width, width)
    for k, rate in enumerate(rates.tolist()):
        for at, offset in ((4 * k, rows), (4 * k + 2, columns)):
            cosine, sine = math.cos(rate * offset), math.sin(rate * offset)
            turn[at : at + 2, at : at + 2] = torch.tensor([[cosine, sine], [-sine, cosine]])
    return turn


OFFSETS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1), (0, 0))
"""Neighbours (rows, columns) that the heads look at, in turn."""


@torch.no_grad()
def prepare_vision(
    tower: CLIPVisionModel,
    world: RenderedWorld,
    count: int = 256,
    seed: int = 0,
    strength: float = 1.0,
    gain: float = 1.7,
) -> None:
    """Sets patch filters, position code and attention of a fresh vision tower.

    Args:
        tower: The tower; a third of its width holds the position, the rest the patch.
        world: Where samples of patches come from.
        count: Pictures to sample.
        seed: Of the sample.
        strength: Amplitude of the position code.
        gain: Of queries and keys: how sharply heads look at their neighbour.
    """
    rng = np.random.default_rng(seed)
    pictures = pictures_of(world, rng.integers(0, len(world), count))
    kernel = tower.embeddings.patch_embedding.weight
    width, _, patch, _ = kernel.shape
    place = min(64, width // 3 // 4 * 4)
    cells = F.unfold(pictures, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    kernel.zero_()
    kernel[place:] = whitening(cells, width - place).view_as(kernel[place:])
    code = tower.embeddings.position_embedding.weight
    code[1:, :place] = strength * grid_code(pictures.shape[-1] // patch, place)
    tower.embeddings.class_embedding[:place] = 0.0  # or it would look at nothing but itself
    heads = tower.config.num_attention_heads
    for number, layer in enumerate(tower.encoder.layers):
        layer.self_attn.v_proj.weight *= 2.0
        layer.self_attn.q_proj.weight *= 0.25
        layer.self_attn.k_proj.weight *= 0.25
        for head in range(heads):
            rows, columns = OFFSETS[(number * heads + head) % len(OFFSETS)]
            at = slice(head * (width // heads), head * (width // heads) + place)
            layer.self_attn.q_proj.weight[at, :place] = gain * offset_turn(rows, columns, place)
            layer.self_attn.k_proj.weight[at, :place] = gain * torch.eye(place)
