"""Records of the benchmark -> means for tables, files and curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from framework.matchbench.bench import Record
from framework.matchbench.calibration import add, calibration_error, fit_curve, overconfidence
from framework.matchbench.measures import THRESHOLDS

MEASURES = (
    *(f"pck@{threshold:g}" for threshold in THRESHOLDS),
    "epe",
    "ause",
    "occlusion_ap",
    "confidence",
    "occluded",
)
#: The one measure tables by group show.
MAIN = "pck@0.1"


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is there; None of nothing."""
    there = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(there) / len(there) if there else None


def means(records: Sequence[Record]) -> dict[str, float | None]:
    """The mean of every measure; each pair and step counts once, where it has the measure.

    ``ece`` and ``overconfidence`` are those of all points of all records together.
    """
    counted = add(record["tally"] for record in records)
    found = {name: mean(record[name] for record in records) for name in MEASURES}
    return found | {"ece": calibration_error(counted), "overconfidence": overconfidence(counted)}


def split(records: Iterable[Record], key: str) -> dict[Any, list[Record]]:
    """Records by a value, the values in the order of their first appearance."""
    found: dict[Any, list[Record]] = {}
    for record in records:
        found.setdefault(record[key], []).append(record)
    return found


def summarise_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each combination of extractor and matcher, in the order of appearance.

    Returns:
        ``extractor``, ``matcher``, every measure's mean, the ``curve`` that calibrates confidence,
        ``extract_ms`` and ``match_ms`` of a pair (medians, which a busy machine disturbs less),
        ``memory`` in bytes, and the means ``by_step``, ``by_category`` and ``by_difference``
        (sorted).
    """
    rows = []
    for extractor, some in split(records, "extractor").items():
        for matcher, own in split(some, "matcher").items():
            steps = split(own, "step")
            rows.append(
                {
                    "extractor": extractor,
                    "matcher": matcher,
                    "pairs": len({record["pair"] for record in own}),
                    **means(own),
                    "curve": fit_curve(add(record["tally"] for record in own)),
                    "extract_ms": _median([record["extract_ms"] for record in own]),
                    "match_ms": _median([record["match_ms"] for record in own]),
                    "memory": max(record["memory"] for record in own),
                    "by_step": [
                        {"step": step, "timestep": steps[step][0]["timestep"], **means(steps[step])}
                        for step in sorted(steps)
                    ],
                    "by_category": _by(own, "category"),
                    "by_difference": _by(own, "difference"),
                }
            )
    return rows


def _by(records: Sequence[Record], key: str) -> dict[str, dict[str, float | None]]:
    parts = split(records, key)
    return {str(value): means(parts[value]) for value in sorted(parts, key=_natural)}


def _natural(text: Any) -> tuple[float, str]:
    """``0-30°`` before ``110-180°``; words after numbers."""
    head = str(text).partition("-")[0]
    return (float(head) if head.isdigit() else math.inf, str(text))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
