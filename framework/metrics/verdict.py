"""Many concepts together: means with intervals, paired differences, and whether the aim is met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.metrics.judge import SCORES
from framework.metrics.statistics import Estimate, mean_interval, paired_difference

TEXT_TOLERANCE = 0.025
"""By which share of the baseline's text similarity the other arm may lie below it."""


def pool(reports: Mapping[str, Mapping[str, Any]], baseline: str, treated: str) -> dict[str, Any]:
    """Means over concepts with 95 % intervals, clustered by concept.

    Args:
        reports: concept -> what :func:`framework.metrics.summary.summarise` gave; at least one.
        baseline: name of the arm to compare with.
        treated: name of the arm compared.

    Returns:
        ``{arm: {similarity: Estimate}, "difference": {...}}``; similarities on the scale are under
        ``scaled_<similarity>``, from the concepts that have a scale.
    """
    pooled: dict[str, Any] = {baseline: {}, treated: {}, "difference": {}}
    for name in SCORES:
        clusters = [c for c, r in reports.items() for _ in r[baseline]["images"][name]]
        values = {
            arm: [v for r in reports.values() for v in r[arm]["images"][name]]
            for arm in (baseline, treated)
        }
        _estimate(pooled, name, values, clusters, baseline, treated)
    for name in SCORES:
        found = [c for c, r in reports.items() if r[baseline]["scaled"].get(name) is not None]
        if found:
            values = {
                arm: [reports[c][arm]["scaled"][name] for c in found] for arm in (baseline, treated)
            }
            _estimate(pooled, f"scaled_{name}", values, found, baseline, treated)
    return pooled


def _estimate(
    pooled: dict[str, Any],
    name: str,
    values: Mapping[str, list[float]],
    clusters: list[str],
    baseline: str,
    treated: str,
) -> None:
    for arm in (baseline, treated):
        pooled[arm][name] = mean_interval(values[arm], clusters)
    pooled["difference"][name] = paired_difference(values[treated], values[baseline], clusters)


def verdict(pooled: Mapping[str, Mapping[str, Estimate]], baseline: str) -> dict[str, Any]:
    """Whether identity rose and the text held.

    Args:
        pooled: from :func:`pool`.
        baseline: name of the arm to compare with.

    Returns:
        ``identity_above``: whether the mean identity similarity is above the baseline's;
        ``identity_significant``: whether its interval lies above 0 (None for one concept);
        ``text_change``: relative change of the text similarity; ``text_held``: whether that is not
        below -2.5 %.
    """
    identity = pooled["difference"]["identity"]
    before, change = pooled[baseline]["clip_text"].mean, pooled["difference"]["clip_text"].mean
    return {
        "identity_above": identity.mean > 0,
        "identity_significant": None if identity.low is None else identity.low > 0,
        "text_change": change / abs(before) if before else None,
        "text_held": change >= -TEXT_TOLERANCE * abs(before),
    }


def sentences(
    pooled: Mapping[str, Mapping[str, Estimate]], baseline: str, treated: str
) -> list[str]:
    """The verdict in words, one sentence for identity and one for text."""
    found = verdict(pooled, baseline)
    old, new, gap = (pooled[key]["identity"] for key in (baseline, treated, "difference"))
    where = "above" if found["identity_above"] else "not above"
    text_old, text_new = (pooled[key]["clip_text"] for key in (baseline, treated))
    change = found["text_change"]
    relative = "" if change is None else f" ({100 * change:+.1f} %)"
    held = "within" if found["text_held"] else "below"
    limit = f"{100 * TEXT_TOLERANCE:g} %"
    return [
        f"Identity similarity {old.mean:.3f} -> {new.mean:.3f}, {where} the baseline's: "
        f"difference {gap}.",
        f"Text similarity {text_old.mean:.3f} -> {text_new.mean:.3f}{relative}: "
        f"{held} the {limit} that may be lost.",
    ]
