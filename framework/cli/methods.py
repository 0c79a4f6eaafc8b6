"""The table of several personalization methods, each with and without DreamMatcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Reports = dict[str, dict[str, dict[str, Any]]]


def report_methods(reports: Reports, folder: Path) -> None:
    """Write and print the table.

    Args:
        reports: method -> concept -> report.
        folder: gets ``table.md`` and ``results.json``.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from framework.cli.results import versions, write_json
    from framework.experiments.compare import BASELINE, TREATED
    from framework.metrics.verdict import pool
    from framework.runs.atomic import write_atomic

    pooled = {method: pool(found, BASELINE, TREATED) for method, found in reports.items()}
    table = methods_table(reports, pooled)
    write_atomic(folder / "table.md", table)
    write_json(
        folder / "results.json",
        {
            "methods": {
                method: {
                    "concepts": reports[method],
                    "mean": {
                        key: {name: estimate.to_dict() for name, estimate in values.items()}
                        for key, values in pooled[method].items()
                    },
                    "seconds": seconds(reports[method]),
                }
                for method in reports
            },
            "versions": versions(),
        },
    )
    console = Console(highlight=False, width=140)
    console.print(Markdown(table))
    for name in ("table.md", "results.json"):
        console.print(f"  {folder / name}", soft_wrap=True)


def seconds(found: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Mean seconds a concept: of training, wall and processor time, and of sampling an image."""
    times = [report["seconds"] for report in found.values()]
    images = [len(report["cells"]) for report in found.values()]

    def mean(values: list[Any]) -> float | None:
        known = [float(value) for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return {
        "training": mean([each["training"] for each in times]),
        "training_cpu": mean([each.get("training_cpu") for each in times]),
        **{
            f"image_{arm}": mean(
                [each[f"sampling_{arm}"] / n for each, n in zip(times, images, strict=True)]
            )
            for arm in ("baseline", "dreammatcher")
        },
    }


def methods_table(reports: Reports, pooled: dict[str, Any]) -> str:
    """Three rows a method (baseline, DreamMatcher, paired difference), as Markdown."""
    from framework.experiments.compare import BASELINE, LABELS, TREATED
    from framework.metrics.judge import SCORES, TITLES

    titles = [TITLES[name] for name in SCORES]
    lines = [_row("method", "", *titles, "seconds a concept (processor)")]
    lines.append(_row(*["---"] * (len(SCORES) + 3)))
    for method, values in pooled.items():
        times = seconds(reports[method])
        spent = "-" if times["training"] is None else f"{times['training']:.0f}"
        if times["training_cpu"] is not None:
            spent += f" ({times['training_cpu']:.0f})"
        rows = ((BASELINE, LABELS[BASELINE]), (TREATED, LABELS[TREATED]), ("difference",) * 2)
        for key, label in rows:
            first = key == BASELINE
            cells = [str(values[key][name]) for name in SCORES]
            lines.append(
                _row(method if first else "", f"**{label}**", *cells, spent if first else "")
            )
    counts = {len(found) for found in reports.values()}
    pictures = {
        sum(len(report["cells"]) for report in found.values()) for found in reports.values()
    }
    lines += [
        "",
        f"{'/'.join(map(str, sorted(counts)))} concepts, {'/'.join(map(str, sorted(pictures)))} "
        "pictures an arm and method. Means over concepts with 95 % intervals (bootstrap over "
        "concepts); differences are paired, picture by picture. Seconds: training of one concept, "
        "its class images included, by the clock and in processor time of all threads.",
        "",
    ]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
