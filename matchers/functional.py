"""Tensor functions matchers are made of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from framework.geometry import cell_grid
from framework.types import Correspondence

#: Similarities held at once, 16 MiB in float32: one pair at a time and few enough of its target's
#: cells, so that memory depends neither on the batch nor on the grid.
BUDGET = 2**22


def similarities(query: Tensor, keys: Tensor, chunk: int | None = None) -> Iterator[Tensor]:
    """Dot products of all queries of one pair with all its keys, some queries at a time.

    Args:
        query: (N, D).
        keys: (M, D), M >= 1.
        chunk: queries at a time; default as :data:`BUDGET` permits.

    Yields:
        (n, M), in the order of the queries.
    """
    chunk = chunk or max(1, BUDGET // len(keys))
    for part in query.split(chunk):
        yield part @ keys.T


def nearest_neighbours(query: Tensor, keys: Tensor, chunk: int | None = None) -> Tensor:
    """Index of the most similar key of every query; the first maximum wins.

    Args:
        query: (B, N, D).
        keys: (B, M, D), M >= 1.
        chunk: queries compared at a time; changes memory, not the result.

    Returns:
        int64 (B, N), in [0, M).
    """
    found = query.new_empty(query.shape[:2], dtype=torch.int64)
    for row, (one, other) in enumerate(zip(query, keys, strict=True)):
        found[row] = torch.cat([part.argmax(dim=-1) for part in similarities(one, other, chunk)])
    return found


def argmax_flow(target: Tensor, reference: Tensor, chunk: int | None = None) -> Tensor:
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


def resize_correspondence(matches: Correspondence, height: int, width: int) -> Correspondence:
    """Bring a correspondence to another grid, in that grid's cells.

    Args:
        matches: flow (B, h, w, 2) and confidence (B, h, w), on any grid; where the confidence is 0
            the flow is ignored and may be anything, NaN included.
        height: rows of the new grid.
        width: columns.

    Returns:
        On each new cell the mean of the flows it covers, weighted by their confidences, and the
        mean confidence; the flow is 0 where nothing is known.
    """
    rows, columns = matches.flow.shape[1:3]
    weight = matches.confidence.float()[:, None]
    flow = torch.where(weight > 0, matches.flow.float().movedim(-1, 1), 0.0)
    size = (height, width)
    confidence = adaptive_avg_pool2d(weight, size)
    mean = adaptive_avg_pool2d(flow * weight, size) / confidence.clamp_min(1e-12)
    factor = mean.new_tensor([width / columns, height / rows])
    return Correspondence(mean.movedim(1, -1) * factor, confidence[:, 0].clamp(0, 1))
