"""Plain plots: subject fidelity against text fidelity, and the curve of a swept option."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from framework.experiments.results import Results, ScoreEntry
from framework.metrics.panel import SCORES
from framework.runs.atomic import atomic_path

SUFFIXES = (".png", ".svg")
MARKERS = "osD^vP*X<>ph"


def trade_off(results: Results, subject: str = "identity", text: str = "clip_text") -> Figure:
    """Subject fidelity against text fidelity, 95 % intervals as bars.

    Variants that differ in one number only are joined by a line in its order: the trade-off curve
    of a swept option.
    """
    figure, axis = _figure()
    shown = [v for v in results.variants if {subject, text} <= set(results.entries[v])]
    swept = swept_key(results)
    colours = colormaps["viridis" if swept else "tab10"]
    spread = max(len(shown) - 1, 1)
    for place, variant in enumerate(shown):
        x, y = results.entries[variant][text], results.entries[variant][subject]
        colour = colours(0.9 * place / spread) if swept else colours(place % 10)
        baseline = variant == results.baseline
        axis.errorbar(
            x.mean.mean, y.mean.mean, xerr=_bars(x), yerr=_bars(y), color=colour,
            marker=MARKERS[place % len(MARKERS)], markersize=9 if baseline else 7, capsize=2,
            markerfacecolor="white" if baseline else colour, linestyle="none", linewidth=1.1,
            label=variant + (" (baseline)" if baseline and variant != "baseline" else ""),
        )  # fmt: skip
    if swept:
        order = sorted(
            (v for v in shown if swept in results.settings[v]),
            key=lambda v: results.settings[v][swept],
        )
        xs = [results.entries[v][text].mean.mean for v in order]
        ys = [results.entries[v][subject].mean.mean for v in order]
        axis.plot(xs, ys, color="#888888", linewidth=1, zorder=0)
    axis.set_xlabel(f"text fidelity: {SCORES[text]}")
    axis.set_ylabel(f"subject fidelity: {SCORES[subject]}")
    axis.set_title("Subject against text, mean and 95 % interval over concepts", fontsize=10)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def curve(results: Results, key: str) -> Figure:
    """Every score over a swept option."""
    names = [n for n in ("identity", "clip_text", "copy_paste") if n in results.scores]
    order = sorted(
        (v for v in results.variants if _number(results.settings.get(v, {}).get(key)) is not None),
        key=lambda v: results.settings[v][key],
    )
    figure = Figure(figsize=(3.2 * len(names), 2.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        scored = [v for v in order if name in results.entries[v]]
        values = [results.settings[v][key] for v in scored]
        means = [results.entries[v][name].mean for v in scored]
        axis.plot(values, [mean.mean for mean in means], "o-", markersize=4)
        if all(mean.low is not None for mean in means):
            low, high = [mean.low for mean in means], [mean.high for mean in means]
            axis.fill_between(values, low, high, alpha=0.18)
        axis.set_xlabel(key, fontsize=9)
        axis.set_title(SCORES[name], fontsize=10)
        _plain(axis)
    return figure


def swept_key(results: Results) -> str | None:
    """The one option with numeric values in which all variants (but the baseline) differ."""
    keys = {key for values in results.settings.values() for key in values}
    others = [v for v in results.variants if v != results.baseline]
    for key in sorted(keys):
        values = [_number(results.settings.get(v, {}).get(key)) for v in others]
        rest = [
            {k: str(x) for k, x in results.settings.get(v, {}).items() if k != key} for v in others
        ]
        several = len(others) > 1 and None not in values and len(set(values)) == len(values)
        if several and all(each == rest[0] for each in rest):
            return key
    return None


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Write the plots as PNG and SVG; their paths."""
    figures: dict[str, Figure] = {}
    if {"identity", "clip_text"} <= set(results.scores):
        figures["trade_off"] = trade_off(results)
    key = swept_key(results)
    if key is not None:
        figures["curve"] = curve(results, key)
    written = []
    for name, figure in figures.items():
        for suffix in SUFFIXES:
            path = folder / f"{name}{suffix}"
            with atomic_path(path) as temporary:
                metadata: Mapping[str, Any] = {"Date": None} if suffix == ".svg" else {}
                with rc_context({"svg.hashsalt": "dreammatcher"}):  # equal runs, equal files
                    figure.savefig(temporary, metadata=metadata, bbox_inches="tight")
            written.append(path)
    return written


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    _plain(axis)
    return figure, axis


def _plain(axis: Any) -> None:
    axis.grid(True, color="#e3e6ea", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _bars(entry: ScoreEntry) -> Any:
    mean = entry.mean
    if mean.low is None or mean.high is None:
        return None
    return [[mean.mean - mean.low], [mean.high - mean.mean]]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
