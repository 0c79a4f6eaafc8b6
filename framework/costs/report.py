"""The table of costs, and which of the aims are met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from framework.costs.costs import PLAIN

if TYPE_CHECKING:
    from rich.table import Table

#: Arm -> the most it may cost an image at 8 targets, as a multiple of the plain pipeline.
AIMS = {
    "flops": {
        "DreamMatcher": 1.20,
        "DreamMatcher, cached": 1.08,
        "with guidance": 2.2,
        "with guidance, cached": 2.2,
    },
    "wall": {
        "DreamMatcher": 1.35,
        "DreamMatcher, cached": 1.2,
        "with guidance": 2.6,
        "with guidance, cached": 2.6,
    },
}
COLUMNS = {
    "flops": ("TFLOP", 1e12, "{:.3g}"),
    "rows": ("network rows", 1, "{:.1f}"),
    "wall": ("seconds", 1, "{:.3g}"),
    "cpu": ("CPU s", 1, "{:.3g}"),
    "peak": ("MB", 2**20, "{:.0f}"),
}
KEY = (
    "Everything per image, in brackets as a multiple of the plain pipeline. Network rows: "
    "evaluations of the network, one for each image and half of classifier-free guidance. CPU s: "
    "of all threads together, which says more than the clock where others use the machine too. MB: "
    "tensors alive at the same time, without weights and cache."
)


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with ``ratio``: each measure divided by the plain pipeline's of the same model and N."""
    plain = {(row["model"], row["targets"]): row for row in rows if row["arm"] == PLAIN}
    found = []
    for row in rows:
        base = plain[row["model"], row["targets"]]
        ratio = {
            name: row[name] / base[name] if row[name] is not None and base[name] else None
            for name in COLUMNS
        }
        found.append({**row, "ratio": ratio})
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    """The measures of one row as text."""
    found = []
    for name, (_, unit, form) in COLUMNS.items():
        value, ratio = row[name], row["ratio"][name]
        if value is None:
            found.append("-")
            continue
        beside = "" if row["arm"] == PLAIN or ratio is None else f" ({ratio:.2f})"
        found.append(form.format(value / unit) + beside)
    return found


def cost_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """One model's rows."""
    from rich.table import Table

    made = Table(title=title)
    made.add_column("N", justify="right")
    made.add_column("")
    for name, _, _ in COLUMNS.values():
        made.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in rows:
        if last not in (None, row["targets"]):
            made.add_section()
        made.add_row(
            "" if last == row["targets"] else str(row["targets"]), row["arm"], *_cells(row)
        )
        last = row["targets"]
    return made


def cost_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Every row as a Markdown table."""
    names = [name for name, _, _ in COLUMNS.values()]
    lines = [
        "| " + " | ".join(["model", "N", "", *names]) + " |",
        "| " + " | ".join(["---", "---:", "---", *["---:"] * len(names)]) + " |",
    ]
    for row in rows:
        lines.append(
            "| " + " | ".join([row["model"], str(row["targets"]), row["arm"], *_cells(row)]) + " |"
        )
    return "\n".join(lines) + "\n"


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each aim at 8 targets that is missed, or one that all are met."""
    lines, checked = [], 0
    for row in rows:
        for name, aims in AIMS.items():
            aim, ratio = aims.get(row["arm"]), row["ratio"][name]
            timed_elsewhere = name == "wall" and row["model"] != "embedded"
            if row["targets"] != 8 or aim is None or ratio is None or timed_elsewhere:
                continue
            checked += 1
            if ratio > aim:
                lines.append(
                    f"{row['model']}, {row['arm']}: {ratio:.2f} times the plain pipeline's "
                    f"{COLUMNS[name][0]}, aimed at {aim}"
                )
    if checked and not lines:
        return [f"All {checked} aims at 8 targets are met."]
    return lines
