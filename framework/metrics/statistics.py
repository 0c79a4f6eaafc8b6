"""Means with confidence intervals: a bootstrap over concepts, not over pictures.

Pictures of one concept share its object, its weights and its references, so they are not
independent; whole concepts are drawn with replacement, and every concept weighs the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from framework.errors import UserError, check_range


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Attributes:
        mean: mean over clusters of the clusters' means.
        low: lower end of the interval; None with fewer than two clusters.
        high: upper end, likewise.
        clusters: number of clusters.
        values: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    clusters: int
    values: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def cluster_means(values: Sequence[float], clusters: Sequence[Hashable]) -> np.ndarray:
    """Mean of each cluster, in the order in which clusters first appear.

    Raises:
        UserError: there is no value, or not one cluster name for each.
    """
    if not len(values) or len(values) != len(clusters):
        raise UserError(
            f"Got {len(values)} value(s) and {len(clusters)} cluster name(s); expected at least "
            "one, and as many of either."
        )
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(float(value))
    return np.array([np.mean(group) for group in groups.values()])


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean with a percentile bootstrap interval, clustered.

    Args:
        values: one for each picture.
        clusters: the cluster (concept) of each value.
        level: coverage, in [0, 1].
        resamples: bootstrap draws.
        seed: of the draws; the same arguments give the same interval.

    Raises:
        UserError: no values, lengths that differ, or a level outside [0, 1].
    """
    check_range("level", level, 0, 1)
    check_range("resamples", resamples, 1)
    means = cluster_means(values, clusters)
    centre = float(means.mean())
    if len(means) < 2:
        return Estimate(centre, None, None, len(means), len(values))
    drawn = np.random.default_rng(seed).integers(len(means), size=(resamples, len(means)))
    spread = means[drawn].mean(axis=1)
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(centre, float(low), float(high), len(means), len(values))


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    clusters: Sequence[Hashable],
    **options: Any,
) -> Estimate:
    """Mean of ``values - baseline`` with its interval, picture by picture.

    Pairs share prompt and noise, so most of the spread between pictures cancels.

    Args:
        values: one for each picture.
        baseline: the baseline's picture of the same prompt and noise, in the same order.
        clusters: the cluster of each pair.
        **options: ``level``, ``resamples``, ``seed`` of :func:`mean_interval`.

    Raises:
        UserError: the lists differ in length.
    """
    if len(values) != len(baseline):
        raise UserError(f"Got {len(values)} value(s) but {len(baseline)} of the baseline.")
    differences = [a - b for a, b in zip(values, baseline, strict=True)]
    return mean_interval(differences, clusters, **options)
