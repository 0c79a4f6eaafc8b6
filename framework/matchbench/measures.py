"""The measures of the matching benchmark: pure functions of tensors, exact on ties.

Errors are distances between where a point was said to lie in the reference and where it lies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Permitted error as a share of the box's longer side.
THRESHOLDS = (0.05, 0.1, 0.15)
#: A match is right, in the sense of a calibrated confidence, within this share of the box.
RIGHT = 0.1
#: Errors up to this, in pixels, are those of floating-point numbers and count as none.
ROUNDING = 1e-3


def predicted_points(flow: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Where a flow says that points of the target lie in the reference.

    A point takes the flow of the cell it lies in; nothing is interpolated between matches.

    Args:
        flow: (H, W, 2), (x, y) in cells, target to reference.
        points: (P, 2), (x, y) in pixels of the target; whole numbers are pixel centres.
        size: (height, width) of both pictures in pixels.

    Returns:
        (P, 2), (x, y) in pixels of the reference.
    """
    cell = _cell_size(flow, size)
    return points + flow[_cells(flow, points, cell)] * cell


def at_points(values: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (H, W, ...) of the cells in which points (P, 2) of the target lie; (P, ...)."""
    return values[_cells(values, points, _cell_size(values, size))]


def _cell_size(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.tensor([size[1] / grid.shape[1], size[0] / grid.shape[0]], device=grid.device)


def _cells(grid: Tensor, points: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    column, row = ((points + 0.5) / cell).floor().long().unbind(-1)
    return row.clamp(0, grid.shape[0] - 1), column.clamp(0, grid.shape[1] - 1)


def pck(errors: Tensor, box: float, threshold: float) -> float:
    """Percentage of correct keypoints, as a share: errors of at most ``threshold * box``.

    Args:
        errors: (P,), in the unit of ``box``.
        box: longer side of the object's box in the reference.
        threshold: share of it.

    Returns:
        In [0, 1]; NaN without points.
    """
    return float((errors <= threshold * box).float().mean()) if len(errors) else math.nan


def right_points(
    predicted: Tensor,
    truth: Tensor,
    visible: Tensor,
    box: float,
    scale: Tensor | None = None,
) -> Tensor:
    """What a calibrated confidence is the probability of: visible, and within :data:`RIGHT`.

    Args:
        predicted: (P, 2), in pixels.
        truth: (P, 2), likewise.
        visible: (P,), bool.
        box: longer side of the object's box in the reference, in the unit after scaling.
        scale: (2,), factor on x and y before errors are measured; None: 1.

    Returns:
        (P,), bool; False for every point that the reference does not show.
    """
    difference = predicted - truth
    errors = (difference if scale is None else difference * scale).norm(dim=-1)
    return (errors <= RIGHT * box) & visible


def sparsification_area(errors: Tensor, confidence: Tensor) -> float:
    """Area between the confidence-error curve and the best possible one (AUSE).

    The curve gives, for k = 1 .. P, the mean error of the k most confident points; the best one
    keeps the k smallest errors. Each is averaged over k; their difference is divided by the mean
    error. Where confidences are equal, the curve is the mean over every order of these points.

    Args:
        errors: (P,).
        confidence: (P,).

    Returns:
        0 where confidence orders the points as their errors do, or no point is wrong; 1 minus the
        best area for a confidence that says nothing; NaN without points.
    """
    if not len(errors):
        return math.nan
    errors = errors.double()
    mean = errors.mean()
    if mean <= 0:
        return 0.0
    ours = _mean_of_kept(errors, confidence.double())
    best = _mean_of_kept(errors, -errors)
    return float((ours - best) / mean)


def _mean_of_kept(errors: Tensor, score: Tensor) -> Tensor:
    """Mean over k of the mean error of the k highest scores."""
    _, group, sizes = score.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), dtype=errors.dtype, device=errors.device)
    means = sums.index_add(0, group, errors) / sizes  # lowest score first
    steps = means.flip(0).repeat_interleave(sizes.flip(0))
    count = torch.arange(1, len(errors) + 1, device=errors.device)
    return (steps.cumsum(0) / count).mean()


def average_precision(score: Tensor, positive: Tensor) -> float:
    """Average precision of a detector: the mean precision at each found positive.

    Equal scores are one threshold: precision is that after all of them.

    Args:
        score: (P,), higher is surer.
        positive: (P,), bool.

    Returns:
        In [0, 1]; a score that says nothing gets the share of positives. NaN without positives.
    """
    total = int(positive.sum())
    if not total:
        return math.nan
    _, group, sizes = score.unique(return_inverse=True, return_counts=True)
    hits = torch.zeros(len(sizes), dtype=torch.float64, device=score.device)
    hits = hits.index_add(0, group, positive.double()).flip(0)  # highest score first
    precision = hits.cumsum(0) / sizes.flip(0).cumsum(0)
    return float((precision * hits).sum() / total)


def score_points(
    predicted: Tensor,
    confidence: Tensor,
    truth: Tensor,
    visible: Tensor,
    box: float,
    scale: Tensor | None = None,
) -> dict[str, float]:
    """Every measure of one pair of pictures.

    Args:
        predicted: (P, 2), in pixels.
        confidence: (P,), in [0, 1].
        truth: (P, 2), in pixels.
        visible: (P,), bool: the point can be seen in the reference.
        box: longer side of the object's box in the reference, in the unit after scaling.
        scale: (2,), factor on x and y before errors are measured; None: 1.

    Returns:
        ``pck@...`` and ``epe`` (mean error, in the unit of ``box``), ``ause`` over visible points;
        ``occlusion_ap`` of 1 - confidence over all points; ``confidence`` and ``occluded``, the
        means over visible and all points. NaN where a measure has no points.
    """
    difference = predicted - truth
    errors = (difference if scale is None else difference * scale).norm(dim=-1)[visible]
    errors = errors.where(errors > ROUNDING, 0.0)
    seen = confidence[visible]
    nothing = not len(errors)
    scores = {f"pck@{threshold:g}": pck(errors, box, threshold) for threshold in THRESHOLDS}
    return scores | {
        "epe": math.nan if nothing else float(errors.mean()),
        "ause": sparsification_area(errors, seen),
        "occlusion_ap": average_precision(1 - confidence, ~visible),
        "confidence": math.nan if nothing else float(seen.mean()),
        "occluded": float((~visible).float().mean()) if len(visible) else math.nan,
    }
