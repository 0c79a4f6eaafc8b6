"""Figures with intervals: shares, means, and distances between sets of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.metrics.statistics import mean_interval

Figure = dict[str, Any]
"""``mean``, ``low``, ``high`` and ``values``: a mean, its 95 % interval and of how many values."""


def figure(
    values: Tensor | np.ndarray | Sequence[float], groups: Sequence[Any] | None = None
) -> Figure:
    """Mean and bootstrap interval of values, or of whole groups of them.

    Args:
        values: (N,), numbers or truth values.
        groups: What is drawn again with replacement; None: each value by itself.

    Returns:
        The figure; ``mean`` is None without values.
    """
    numbers = np.asarray(values, dtype=float)
    if not len(numbers):
        return {"mean": None, "low": None, "high": None, "values": 0}
    found = mean_interval(numbers, range(len(numbers)) if groups is None else groups)
    return {"mean": found.mean, "low": found.low, "high": found.high, "values": found.values}


def frechet(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two sets of features, (N, D) and (M, D), taken as normal."""
    means = [x.double().mean(0) for x in (first, second)]
    spreads = [torch.cov(x.double().T) for x in (first, second)]
    # the trace of the root of the product, by the eigenvalues of a symmetric one
    values, vectors = torch.linalg.eigh(spreads[0])
    root = vectors * values.clamp_min(0.0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ spreads[1] @ root).clamp_min(0.0).sqrt().sum()
    shift = (means[0] - means[1]).square().sum()
    return float(shift + spreads[0].trace() + spreads[1].trace() - 2.0 * inner)


def distance_multiple(drawn: Tensor, real: Tensor, splits: int = 20, seed: int = 0) -> Figure:
    """Fréchet distance of drawn pictures to real ones, in units of that of real ones to real ones.

    Halves of equal size are compared, for the distance of finite sets has a bias: half of the drawn
    to half of the real, and one half of the real to the other.

    Args:
        drawn: Features (N, D).
        real: Features (N, D).
        splits: Random halves; the interval is that of their spread.
        seed: Of the halves.

    Returns:
        The figure, with ``distance`` and ``floor``, the means of either distance.
    """
    rng, count = np.random.default_rng(seed), min(len(drawn), len(real))
    rows = []
    for _ in range(splits):
        ours, theirs = (torch.from_numpy(rng.permutation(count)) for _ in range(2))
        half, other = theirs[: count // 2], theirs[count // 2 : count // 2 * 2]
        mine = ours[: count // 2]
        rows.append([frechet(drawn[mine], real[half]), frechet(real[half], real[other])])
    far, near = np.array(rows).T
    ratios = far / near.mean()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "mean": float(ratios.mean()),
        "low": float(low),
        "high": float(high),
        "values": count,
        "distance": float(far.mean()),
        "floor": float(near.mean()),
    }
