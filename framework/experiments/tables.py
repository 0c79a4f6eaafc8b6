"""The table of a run as text, Markdown, LaTeX and CSV, and rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.experiments.results import Results, ScoreEntry
from framework.metrics.panel import LOWER, SCORES

NOTE = (
    "Means over concepts with 95 % bootstrap intervals, clustered by concept. Differences are to "
    "'{baseline}', paired by concept, prompt and seed (the same noise); no correction for several "
    "comparisons. {mark} marks the best of a column; ~ a difference whose interval includes 0. "
    "Copy-paste: less is better. Protocol: {protocol}."
)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, keys first; what is not there or not a number is left empty."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, keys, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None or v != v else v for k, v in row.items()})
    return buffer.getvalue()


def read_scores(folder: Path, protocol: str) -> list[dict[str, Any]]:
    """The scores of single pictures that a run wrote; numbers as numbers, None where there is
    none."""
    with (folder / "scores" / f"{protocol}.csv").open(newline="", encoding="utf-8") as file:
        return [
            row | {key: float(row[key]) if row.get(key) else None for key in SCORES}
            for row in csv.DictReader(file)
        ]


def text_table(results: Results) -> str:
    """For a terminal: variants down, scores across, two lines each: mean, and difference."""
    header = ["variant", *[_title(name) for name in results.scores]]
    lines: list[list[str]] = []
    for variant in results.variants:
        entries = results.entries[variant]
        lines.append([variant, *[_mean(entries.get(n), "*", "") for n in results.scores]])
        if variant != results.baseline:
            lines.append(["", *[_difference(entries.get(n)) for n in results.scores]])
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    told = [_padded(header, widths), rule, *[_padded(row, widths) for row in lines]]
    return "\n".join([*told, "", table_note(results, "*")]) + "\n"


def markdown_table(results: Results) -> str:
    """Markdown; a difference stands below its mean."""
    head = _row(["variant", *[_title(name) for name in results.scores]])
    rows = [head, _row(["---"] * (len(results.scores) + 1))]
    for variant in results.variants:
        entries = results.entries[variant]
        cells = []
        for name in results.scores:
            entry = entries.get(name)
            below = "" if variant == results.baseline else f"<br>{_difference(entry)}"
            cells.append(_mean(entry, "**", "**") + below)
        rows.append(_row([variant, *cells]))
    return "\n".join([*rows, "", table_note(results, "Bold")]) + "\n"


def latex_table(results: Results) -> str:
    """A ``tabular`` with booktabs rules."""
    columns = "l" + "c" * len(results.scores)
    lines = [
        "% " + table_note(results, "Bold").replace("%", r"\%"),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(["", *[_tex(_title(name)) for name in results.scores]]) + r" \\",
        r"\midrule",
    ]
    for variant in results.variants:
        entries = results.entries[variant]
        means = [_mean(entries.get(n), r"\textbf{", "}", tex=True) for n in results.scores]
        lines.append(" & ".join([_tex(variant), *means]) + r" \\")
        if variant != results.baseline:
            below = [
                rf"{{\footnotesize ${_difference(entries.get(n), tex=True)}$}}"
                if entries.get(n) is not None
                else "--"
                for n in results.scores
            ]
            lines.append(" & ".join(["", *below]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def table_rows(results: Results) -> list[dict[str, Any]]:
    """Long rows for a CSV: one for each variant and score."""
    rows = []
    for variant in results.variants:
        for name, entry in results.entries[variant].items():
            gap = entry.difference
            rows.append(
                {
                    "protocol": results.protocol,
                    "variant": variant,
                    "score": name,
                    "mean": entry.mean.mean,
                    "low": entry.mean.low,
                    "high": entry.mean.high,
                    "concepts": entry.mean.clusters,
                    "cells": entry.mean.values,
                    "difference": None if gap is None else gap.mean,
                    "difference_low": None if gap is None else gap.low,
                    "difference_high": None if gap is None else gap.high,
                    "best": entry.best,
                    "significant": entry.clear,
                }
            )
    return rows


def table_note(results: Results, mark: str) -> str:
    """What the table's signs mean."""
    text = NOTE.format(baseline=results.baseline, protocol=results.protocol, mark=mark)
    return f"{text} {results.hardware}".strip()


def _title(name: str) -> str:
    return SCORES[name] + (" (less)" if name in LOWER else "")


def _mean(entry: ScoreEntry | None, before: str, after: str, tex: bool = False) -> str:
    if entry is None:
        return "--" if tex else "-"
    text = str(entry.mean)
    if tex:
        text = text.replace("-", "$-$")  # not a formula, so that it can be bold
    return f"{before}{text}{after}" if entry.best else text


def _difference(entry: ScoreEntry | None, tex: bool = False) -> str:
    if entry is None or entry.difference is None:
        return "-"
    gap = entry.difference
    text = f"{gap.mean:+.3f}"
    if gap.low is not None and gap.high is not None:
        text += f" [{gap.low:+.3f}, {gap.high:+.3f}]"
    if entry.clear is False:
        text += r"\sim" if tex else " ~"
    return text


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
    return "  ".join(cells).rstrip()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _tex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, "\\" + sign)
    return text
