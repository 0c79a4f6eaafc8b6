"""Tables and curves of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from framework.matchbench.measures import THRESHOLDS
from framework.matchbench.summary import MAIN
from framework.runs.atomic import atomic_path

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
#: Column title -> how a row shows it.
COLUMNS = {
    **{f"PCK@{t:g}": f"pck@{t:g}" for t in THRESHOLDS},
    "EPE": "epe",
    "AUSE": "ause",
    "occl. AP": "occlusion_ap",
    "ECE": "ece",
}
KEY = (
    "PCK: share of visible points within that share of the object's box (higher is better). EPE: "
    "mean error in pixels. AUSE: area between the confidence-error curve and the best possible "
    "one (0: confidence orders points as their errors do). occl. AP: average precision of 1 - "
    "confidence in finding points the reference does not show. ECE: distance of confidence from "
    "the probability that a point is visible and matched within 0.1 of the box. ms, MB: of one "
    "pair, extractor + matcher; on a CPU, processor time."
)
_COLOURS = ("#12765c", "#d1495b", "#30638e", "#edae49", "#7b5ea7", "#5b5f66", "#9c6644", "#00798c")
_DASHES = ("-", "--", ":", "-.")


def main_cells(row: Row) -> list[str]:
    """The numbers of one row, as text."""
    cells = [_number(row[key], 1 if title == "EPE" else 3) for title, key in COLUMNS.items()]
    spent = row["extract_ms"] + row["match_ms"]
    return [*cells, f"{spent:.0f}", f"{row['memory'] / 2**20:.1f}"]


def main_table(rows: Sequence[Row], title: str) -> Table:
    """Every combination with every measure, the best PCK of each column bold."""
    table = _table(title)
    table.add_column("extractor", overflow="fold", min_width=9)
    table.add_column("matcher", overflow="fold", min_width=12)
    for name in (*COLUMNS, "ms", "MB"):
        narrow = name.replace("@", "\n").replace(" ", "\n")
        table.add_column(narrow, justify="right", no_wrap=True)
    for row in rows:
        cells = [cell.removeprefix("0") if cell[:2] == "0." else cell for cell in main_cells(row)]
        table.add_row(row["extractor"], row["matcher"], *_bold(cells, row, rows))
    return table


def _bold(cells: list[str], row: Row, rows: Sequence[Row]) -> list[str]:
    """Mark what no other row exceeds in PCK."""
    for place, key in enumerate(COLUMNS.values()):
        best = max((other[key] for other in rows if other[key] is not None), default=None)
        if key.startswith("pck") and len(rows) > 1 and row[key] is not None and row[key] == best:
            cells[place] = f"[bold]{cells[place]}[/bold]"
    return cells


def split_table(rows: Sequence[Row], key: str, title: str) -> Table:
    """One measure of every combination by ``by_category``, ``by_difference`` or the like.

    The values are rows where there are more of them than combinations.
    """
    table = _table(title)
    values = list(dict.fromkeys(value for row in rows for value in row[key]))
    shown = [[_number(row[key].get(value, {}).get(MAIN), 3) for value in values] for row in rows]
    names = [f"{row['extractor']} / {row['matcher']}" for row in rows]
    if len(values) > len(names):
        table.add_column("")
        for name in names:
            table.add_column(name.replace(" / ", "\n"), justify="right", overflow="fold")
        for place, value in enumerate(values):
            table.add_row(value, *(cells[place] for cells in shown))
        return table
    table.add_column("", overflow="fold")
    for value in values:
        table.add_column(value, justify="right")
    for name, cells in zip(names, shown, strict=True):
        table.add_row(name, *cells)
    return table


def matching_markdown(rows: Sequence[Row]) -> str:
    """The main table in Markdown."""
    titles = ["extractor", "matcher", *COLUMNS, "ms", "MB"]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * 2 + " ---: |" * (len(titles) - 2)]
    lines += [
        "| " + " | ".join([row["extractor"], row["matcher"], *main_cells(row)]) + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def draw_curves(rows: Sequence[Row], path: Path, title: str) -> Path:
    """PCK over the sampling steps: a column of panels for each extractor, a line for each matcher.

    A matcher that looks at no descriptors is drawn in every column, one that is always right (it
    was told the truth) not at all.

    Args:
        rows: of :func:`framework.matchbench.summary.summarise`.
        path: a PNG.
        title: above the panels.
    """
    from matplotlib.figure import Figure

    described = list(dict.fromkeys(r["extractor"] for r in rows if r["extractor"] != "(none)"))
    extractors = described or ["(none)"]
    rows = [row for row in rows if not _perfect(row)] or rows
    matchers = list(dict.fromkeys(row["matcher"] for row in rows))
    across, down = len(extractors), len(THRESHOLDS)
    figure = Figure(figsize=(3.0 * across + 2.6, 2.1 * down + 0.9), dpi=130, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey="row")
    drawn: dict[str, Any] = {}
    for column, extractor in enumerate(extractors):
        own = [row for row in rows if row["extractor"] in (extractor, "(none)")]
        for line, threshold in enumerate(THRESHOLDS):
            panel = panels[line][column]
            for row in own:
                number = matchers.index(row["matcher"])
                steps = [point["step"] for point in row["by_step"]]
                values = [point[f"pck@{threshold:g}"] for point in row["by_step"]]
                (drawn[row["matcher"]],) = panel.plot(
                    steps,
                    [float("nan") if value is None else value for value in values],
                    color=_COLOURS[number % len(_COLOURS)],
                    linestyle=_DASHES[number // len(_COLOURS) % len(_DASHES)],
                    marker="o" if len(steps) < 15 else None,
                    markersize=3,
                    linewidth=1.6,
                )
            panel.grid(color="#e3e5e8", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_ylim(0, min(1.0, 1.1 * _best(rows, threshold) + 0.02))
            if line == 0:
                panel.set_title(fill(extractor, 34, break_on_hyphens=False), fontsize=8)
            if column == 0:
                panel.set_ylabel(f"PCK@{threshold:g}", fontsize=9)
            if line == down - 1:
                panel.set_xlabel("sampling step (0: noise)", fontsize=8)
            panel.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.legend(
        [drawn[name] for name in matchers],
        matchers,
        loc="outside right upper",
        frameon=False,
        fontsize=8,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path


def _perfect(row: Row) -> bool:
    return all(point[f"pck@{t:g}"] == 1 for point in row["by_step"] for t in THRESHOLDS)


def _best(rows: Sequence[Row], threshold: float) -> float:
    values = [point[f"pck@{threshold:g}"] for row in rows for point in row["by_step"]]
    return max((value for value in values if value is not None), default=1.0)


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
