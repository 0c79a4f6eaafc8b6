"""The comparison as a Markdown table: a row for each concept, means with intervals below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.metrics.judge import SCORES, TITLES
from framework.metrics.statistics import Estimate


def markdown(
    reports: Mapping[str, Mapping[str, Any]],
    pooled: Mapping[str, Mapping[str, Estimate]],
    arms: Mapping[str, str],
) -> str:
    """Write the table.

    Args:
        reports: concept -> its report.
        pooled: from :func:`framework.metrics.verdict.pool`.
        arms: name -> label of the baseline and of the other arm, in this order.

    Returns:
        Markdown, ending in a newline.
    """
    (baseline, old), (treated, new) = arms.items()
    rows = [_row("concept", *[TITLES[name] for name in SCORES], "identity, on the scale")]
    rows.append(_row(*["---"] * (len(SCORES) + 2)))
    for concept, report in reports.items():
        cells = [_change(report[baseline][s], report[treated][s]) for s in SCORES]
        places = [report[arm]["scaled"].get("identity") for arm in (baseline, treated)]
        rows.append(
            _row(concept, *cells, "-" if None in places else _change(places[0], places[1], 2))
        )
    names = [*SCORES, "scaled_identity"]
    for key, label in ((baseline, old), (treated, new), ("difference", "difference")):
        cells = [str(pooled[key][name]) if name in pooled[key] else "-" for name in names]
        rows.append(_row(f"**{label}, mean**", *cells))
    note = (
        f"Single concepts: {old} → {new}. Means over concepts with 95 % intervals (bootstrap over "
        "concepts); differences are paired, picture by picture. Scale: 0 is another object, 1 is "
        "another real picture of this one."
    )
    return "\n".join([*rows, "", note, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _change(old: float, new: float, digits: int = 3) -> str:
    return f"{old:.{digits}f} → {new:.{digits}f}"
