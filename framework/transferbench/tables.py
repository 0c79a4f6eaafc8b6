"""Records of the benchmark -> means with intervals, and the error budget by stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from framework.metrics.statistics import Estimate, mean_interval, paired_difference
from framework.runs.atomic import write_atomic
from framework.transferbench.arms import BUDGET, NOTHING
from framework.transferbench.bench import FLOOR, Record
from framework.transferbench.measures import removed_share

ERROR = "error_object"
#: What a column shows -> its head.
COLUMNS = {
    ERROR: "error, object",
    "removed": "removed",
    "error_hidden": "error, hidden",
    "error_background": "error, background",
    "contrast": "contrast",
    "structure": "structure",
}
KEY = (
    "error: mean absolute difference to the true picture, 0 to 1; object: on pixels the reference "
    "shows, hidden: on those it does not. removed: share of the correctable error that is gone, "
    "between nothing injected (0) and the truth through the autoencoder (1). contrast: strength of "
    "the patterns, the truth's is 1. structure: correlation of the outline with the counterfeit's."
)
#: Stages in the order in which an error arises, and the two arms whose difference it is.
CONFIGURED, MASKS, BOTH, SELF = (
    "configured", "true masks", "true masks and matches", "the truth as reference",
)  # fmt: skip
LOSSES = {
    "masks": (CONFIGURED, MASKS),
    "matches": (MASKS, BOTH),
    "another view": (BOTH, SELF),
    "injector and sampler": (SELF, FLOOR),
}


def by_arm(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Arm -> target -> its record; the arms in the order of their first appearance."""
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        found.setdefault(record["arm"], {})[record["target"]] = record
    return found


def summarise_transfer(records: Sequence[Record]) -> dict[str, dict[str, Estimate | None]]:
    """Arm -> column -> its mean with a 95 % interval over objects; None where nothing is known."""
    arms = by_arm(records)
    for arm in arms.values():
        for target, record in arm.items():
            errors = [arms[name][target][ERROR] for name in (NOTHING, FLOOR)]
            known = record[ERROR] is not None and None not in errors
            record["removed"] = removed_share(record[ERROR], *errors) if known else None
    return {
        name: {column: _estimate(list(arm.values()), column) for column in COLUMNS}
        for name, arm in arms.items()
    }


def error_budget(records: Sequence[Record]) -> dict[str, Estimate]:
    """Stage -> the error it adds on the object's visible pixels, paired, with its interval.

    Empty unless every arm of the budget was drawn.
    """
    arms = by_arm(records)
    if not all(name in arms for name in BUDGET):
        return {}
    return {
        stage: _difference(arms[worse], arms[better]) for stage, (worse, better) in LOSSES.items()
    }


def arms_table(summary: Mapping[str, Mapping[str, Estimate | None]], title: str) -> Table:
    """The arms, one a row."""
    table = Table("arm", title=title)
    for head in COLUMNS.values():
        table.add_column(head, justify="right")
    for name, columns in summary.items():
        table.add_row(name, *("–" if value is None else str(value) for value in columns.values()))
    return table


def budget_table(budget: Mapping[str, Estimate]) -> Table:
    """What each stage adds to the error."""
    table = Table("stage", "adds to the error", title="Where the error comes from")
    for stage, loss in budget.items():
        table.add_row(stage, str(loss))
    return table


def write_transfer(
    folder: Path,
    about: Mapping[str, Any],
    summary: Mapping[str, Mapping[str, Estimate | None]],
    budget: Mapping[str, Estimate],
) -> None:
    """Write ``results.json`` and ``table.md``."""
    plain = {
        "about": about,
        "arms": {
            name: {key: value and value.to_dict() for key, value in columns.items()}
            for name, columns in summary.items()
        },
        "budget": {stage: loss.to_dict() for stage, loss in budget.items()},
    }
    write_atomic(folder / "results.json", json.dumps(plain, indent=2) + "\n")
    heads = ["arm", *COLUMNS.values()]
    rows = [heads, ["---", *["---:"] * len(COLUMNS)]]
    rows += [
        [name, *("–" if value is None else str(value) for value in columns.values())]
        for name, columns in summary.items()
    ]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if budget:
        lines = "\n".join(f"| {stage} | {loss} |" for stage, loss in budget.items())
        text += f"\n\n| stage | adds to the error |\n| --- | ---: |\n{lines}"
    write_atomic(folder / "table.md", text + "\n")


def _estimate(records: Sequence[Record], column: str) -> Estimate | None:
    known = [
        record
        for record in records
        if record[column] is not None and record[column] == record[column]
    ]
    if not known:
        return None
    return mean_interval([one[column] for one in known], [one["group"] for one in known])


def _difference(worse: Mapping[str, Record], better: Mapping[str, Record]) -> Estimate:
    targets = [
        target
        for target, record in worse.items()
        if record[ERROR] is not None and better[target][ERROR] is not None
    ]
    return paired_difference(
        [worse[target][ERROR] for target in targets],
        [better[target][ERROR] for target in targets],
        [worse[target]["group"] for target in targets],
    )
