"""Tensor functions matchers are made of."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
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
        found[row] = torch.cat([first_maxima(part) for part in similarities(one, other, chunk)])
    return found


def first_maxima(scores: Tensor) -> Tensor:
    """Column of each row's first maximum: (n, m) -> int64 (n,).

    On a CPU numpy searches, whose argmax uses vector instructions: ten times as quick as torch's.
    """
    if not _numpy_reads(scores):
        return scores.argmax(dim=1)
    return torch.from_numpy(scores.detach().numpy().argmax(axis=1))


def first_maxima_of_columns(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each column and the first row that holds it: (n, m) -> (m,), int64 (m,)."""
    best = scores.amax(dim=0)
    if not _numpy_reads(scores) or best.isnan().any():
        value, place = scores.T.contiguous().max(dim=1)
        return value, place
    # Where the maxima are, row by row; of several in one column the first row is kept.
    found = np.flatnonzero(scores.detach().numpy() == best.detach().numpy())
    rows, columns = map(torch.from_numpy, np.divmod(found, scores.shape[1]))
    last = best.new_full(best.shape, len(scores), dtype=torch.int64)
    return best, last.scatter_reduce(0, columns, rows, "amin")


def _numpy_reads(scores: Tensor) -> bool:
    return scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64)


def mutual_neighbours(
    query: Tensor, keys: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Nearest neighbours both ways, from similarities computed once.

    Args:
        query: (B, N, D), N >= 1.
        keys: (B, M, D), M >= 1.
        chunk: queries compared at a time; changes memory, not the result.

    Returns:
        int64 (B, N), the most similar key of every query; and (B, M), the most similar query of
        every key. The first maximum wins.
    """
    there = query.new_empty(query.shape[:2], dtype=torch.int64)
    back = query.new_zeros(keys.shape[:2], dtype=torch.int64)
    for row, (one, other) in enumerate(zip(query, keys, strict=True)):
        best = one.new_full((len(other),), float("-inf"))
        start = 0
        for part in similarities(one, other, chunk):
            stop = start + len(part)
            there[row, start:stop] = first_maxima(part)
            value, place = first_maxima_of_columns(part)
            better = value > best
            best = torch.where(better, value, best)
            back[row] = torch.where(better, place + start, back[row])
            start = stop
    return there, back


def argmax_flows(
    target: Tensor, reference: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Flows to the most similar cell, target to reference and reference to target.

    Args:
        target: descriptors (B, H, W, D).
        reference: (B, H, W, D).
        chunk: see :func:`mutual_neighbours`.

    Returns:
        Two flows (B, H, W, 2), (x, y) in whole cells.
    """
    height, width = target.shape[1:3]
    both = mutual_neighbours(target.flatten(1, 2), reference.flatten(1, 2), chunk)
    there, back = (cells(index, height, width) for index in both)
    return there, back


@dataclass(frozen=True)
class _Seen:
    """Descriptors matched lately, held weakly, and their flows."""

    target: weakref.ref[Tensor]
    reference: weakref.ref[Tensor]
    versions: tuple[int, int]
    flows: tuple[Tensor, Tensor]


_LATELY: deque[_Seen] = deque(maxlen=4)


def argmax_flows_once(target: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`argmax_flows` of (B, H, W, D) twice, computed once for the same two tensors.

    The sampler matches the same descriptors again whenever the masks have changed, on which the
    flows do not depend.
    """
    if target.is_inference() or reference.is_inference() or torch.is_grad_enabled():
        return argmax_flows(target, reference)
    versions = target._version, reference._version
    for seen in _LATELY:
        if seen.target() is target and seen.reference() is reference and seen.versions == versions:
            return seen.flows
    flows = argmax_flows(target, reference)
    _LATELY.append(_Seen(weakref.ref(target), weakref.ref(reference), versions, flows))
    return flows


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
    return cells(index, height, width)


def cells(index: Tensor, height: int, width: int) -> Tensor:
    """Flow of a match given as an index into the reference's cells.

    Args:
        index: int64 (B, H * W), row by row.
        height: H.
        width: W.

    Returns:
        (B, H, W, 2), (x, y) in whole cells.
    """
    xy = torch.stack([index % width, index // width], dim=-1).float()
    return xy.unflatten(1, (height, width)) - cell_grid(height, width, index.device)


@lru_cache(maxsize=16)
def _offsets(radius: int) -> tuple[tuple[int, int], ...]:
    span = range(-radius, radius + 1)
    return tuple((x, y) for y in span for x in span)


def window(index: Tensor, height: int, width: int, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells around some cells of a grid.

    Args:
        index: int64 (n,), cells of an (H, W) grid, row by row.
        height: H.
        width: W.
        radius: of the square window, in cells.

    Returns:
        Indices (n, K) with K = (2 radius + 1)^2, those outside the grid moved onto its border;
        their (x, y), float32 (n, K, 2), likewise; and which of them lie inside, bool (n, K).
    """
    offsets = torch.tensor(_offsets(radius), device=index.device)
    x, y = index[:, None] % width + offsets[:, 0], index[:, None] // width + offsets[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    return y * width + x, torch.stack([x, y], dim=-1).float(), inside


def soft_window(logits: Tensor, height: int, width: int, radius: int) -> tuple[Tensor, Tensor]:
    """Expected position near the maximum, and how much of the whole softmax is there.

    Args:
        logits: (n, H * W), of every reference cell; may hold -inf.
        height: H.
        width: W.
        radius: of the square window around the first maximum, in cells.

    Returns:
        (x, y) in cells (n, 2), the mean over the window under its softmax; and the share (n,) in
        [0, 1] of the softmax over all cells that the window holds. Both pass gradients.
    """
    near, xy, inside = window(logits.argmax(dim=-1), height, width, radius)
    local = logits.gather(1, near).masked_fill(~inside, float("-inf"))
    share = (local.logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp()
    position = (local.softmax(dim=-1)[..., None] * xy).sum(dim=1)
    return position, share.clamp(0, 1)


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
