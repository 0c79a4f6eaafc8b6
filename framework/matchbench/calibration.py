"""Does a confidence mean what it says? Points counted by confidence, and a curve learned from them.

A *tally* is a list of bins ``[index, points, right ones, sum of confidences]``, those without a
point left out; tallies of many pairs add up. A *curve* is a list of pairs ``[confidence,
probability]``, rising, linear in between and constant beyond its ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: Bins of a tally, of equal width between 0 and 1.
BINS = 100
#: A point of a curve stands for at least this share of all points.
SHARE = 0.05

Tally = list[list[float]]
Curve = list[list[float]]


def tally(confidence: Tensor, right: Tensor) -> Tally:
    """Count the points of one pair.

    Args:
        confidence: (P,), in [0, 1].
        right: (P,), bool: what the confidence should be the probability of.
    """
    values = confidence.double().cpu()
    index = (values * BINS).long().clamp(0, BINS - 1)
    columns = torch.stack([torch.ones_like(values), right.double().cpu(), values], dim=-1)
    sums = torch.zeros(BINS, 3, dtype=torch.float64).index_add(0, index, columns)
    return [
        [place, int(count), int(hits), round(total, 6)]
        for place, (count, hits, total) in enumerate(sums.tolist())
        if count
    ]


def add(tallies: Iterable[Tally]) -> Tally:
    """Several tallies as one."""
    sums: dict[float, list[float]] = {}
    for each in tallies:
        for place, *values in each:
            known = sums.setdefault(place, [0.0, 0.0, 0.0])
            sums[place] = [a + b for a, b in zip(known, values, strict=True)]
    return [[place, *sums[place]] for place in sorted(sums)]


def calibration_error(counted: Tally, bins: int = 10) -> float | None:
    """Expected calibration error: mean distance of confidence and share of right points.

    Args:
        counted: the points.
        bins: they are compared in, of equal width; each counts as many times as it has points.

    Returns:
        In [0, 1]; None without points.
    """
    groups: dict[int, list[float]] = {}
    for place, count, hits, total in counted:
        known = groups.setdefault(int(place) * bins // BINS, [0.0, 0.0])
        groups[int(place) * bins // BINS] = [known[0] + count, known[1] + hits - total]
    points = sum(count for count, _ in groups.values())
    return sum(abs(gap) for _, gap in groups.values()) / points if points else None


def overconfidence(counted: Tally) -> float | None:
    """Mean confidence minus the share of right points; None without points."""
    points = sum(count for _, count, _, _ in counted)
    return math.fsum(total - hits for _, _, hits, total in counted) / points if points else None


def fit_curve(counted: Tally) -> Curve:
    """The rising curve that turns these confidences into shares of right points.

    Isotonic regression (pool adjacent violators) of bins that are first merged until each has
    :data:`SHARE` of the points.

    Returns:
        A curve; empty without points.
    """
    blocks: list[list[list[float]]] = []  # of [points, right ones, sum of confidences]
    for part in _merged(counted):
        blocks.append([part])
        while len(blocks) > 1 and _share(blocks[-2]) >= _share(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    curve: Curve = []
    for block in blocks:
        for count, _, total in block if len(block) < 2 else (block[0], block[-1]):
            curve.append([round(total / count, 4), round(_share(block), 4)])
    return [pair for place, pair in enumerate(curve) if not place or pair[0] > curve[place - 1][0]]


def _merged(counted: Tally) -> list[list[float]]:
    """Neighbouring bins as one until each has its share of the points."""
    least = SHARE * sum(count for _, count, _, _ in counted)
    merged: list[list[float]] = []
    for _, *values in counted:
        if merged and merged[-1][0] < least:
            merged[-1] = [a + b for a, b in zip(merged[-1], values, strict=True)]
        else:
            merged.append(list(values))
    if len(merged) > 1 and merged[-1][0] < least:
        last = merged.pop()
        merged[-1] = [a + b for a, b in zip(merged[-1], last, strict=True)]
    return merged


def _share(block: Sequence[Sequence[float]]) -> float:
    return sum(part[1] for part in block) / sum(part[0] for part in block)
