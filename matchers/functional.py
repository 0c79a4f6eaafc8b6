"""Tensor functions matchers are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.geometry import cell_grid

#: Cells of the target compared with the whole reference at once; bounds memory at
#: B * CHUNK * H * W floats.
CHUNK = 1024


def nearest_neighbours(query: Tensor, keys: Tensor, chunk: int = CHUNK) -> Tensor:
    """Index of the most similar key of every query; the first maximum wins.

    Args:
        query: (B, N, D).
        keys: (B, M, D), M >= 1.
        chunk: queries compared at a time; changes memory, not the result.

    Returns:
        int64 (B, N), in [0, M).
    """
    transposed = keys.transpose(1, 2)
    parts = [(part @ transposed).argmax(dim=-1) for part in query.split(chunk, dim=1)]
    return torch.cat(parts, dim=1)


def argmax_flow(target: Tensor, reference: Tensor, chunk: int = CHUNK) -> Tensor:
    """Flow to the most similar reference cell (Eq. 7).

    Args:
        target: descriptors (B, H, W, D); with L2-normalised rows the similarity is the cosine.
        reference: (B, H, W, D).
        chunk: see :func:`nearest_neighbours`.

    Returns:
        (B, H, W, 2), (x, y) in whole cells.
    """
    _, height, width, _ = target.shape
    index = nearest_neighbours(target.flatten(1, 2), reference.flatten(1, 2), chunk)
    xy = torch.stack([index % width, index // width], dim=-1).float()
    return xy.unflatten(1, (height, width)) - cell_grid(height, width, target.device)
