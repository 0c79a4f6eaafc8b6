"""The model card's table, written from what the evaluation measured."""

from __future__ import annotations

from typing import Any

from framework.toyworld.pretrain.measures import Figure

ROWS: tuple[tuple[str, str, str, float], ...] = (
    ("autoencoder, PSNR at 128 px", "autoencoder psnr_db", "dB", 30.0),
    ("autoencoder, PSNR at 64 px", "autoencoder psnr_half_db", "dB", 0.0),
    ("text to image: category", "text_to_image category", "%", 96.0),
    ("text to image: place", "text_to_image place", "%", 98.0),
    ("text to image: main colour, solid or dotted", "text_to_image colour", "%", 93.0),
    ("text to image: pattern named", "text_to_image pattern", "%", 80.0),
    ("text to image: accessory named", "text_to_image accessory", "%", 85.0),
    ("distance to held-out renders, in theirs to each other", "distance", "x", 0.0),
    ("identity encoder: right held-out object of 15", "identity concepts", "%", 95.0),
    ("identity encoder: right object of 12 of a category", "identity same_category", "%", 0.0),
    ("after Textual Inversion: place right", "learned place", "%", 92.0),
    ("after Textual Inversion: identity on the scale", "learned identity", "", 0.45),
    ("judge on renders: category", "judge_on_renders category", "%", 0.0),
    ("judge on renders: place", "judge_on_renders place", "%", 0.0),
    ("judge on renders: main colour, solid or dotted", "judge_on_renders colour", "%", 0.0),
    ("judge on renders: pattern, by the probe", "judge_on_renders pattern", "%", 90.0),
    ("judge on renders: accessory, by the probe", "judge_on_renders accessory", "%", 90.0),
    ("judge on decoded renders: pattern", "judge_on_decoded pattern", "%", 0.0),
    ("judge on decoded renders: accessory", "judge_on_decoded accessory", "%", 0.0),
)
"""What is measured, where it stands, its unit and what was aimed at (0: nothing)."""


def look_up(table: dict[str, Any], path: str) -> Figure | None:
    """The figure at a path of names, or None."""
    found: Any = table
    for name in path.split():
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and found.get("mean") is not None else None


def written(value: float, unit: str) -> str:
    """A number in its unit, without it."""
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.2f}"


def cell(figure: Figure | None, unit: str) -> str:
    """A figure with its interval."""
    if figure is None:
        return "-"
    text = f"{written(figure['mean'], unit)} {unit}".strip()
    if figure["low"] is None:
        return text
    return f"{text} [{written(figure['low'], unit)}, {written(figure['high'], unit)}]"


def card(table: dict[str, Any]) -> str:
    """A Markdown table of all that was measured, with 95 % intervals.

    Args:
        table: What :func:`framework.toyworld.pretrain.evaluate.evaluate` returned.
    """
    names = list(table["models"])
    lines = [
        "| " + " | ".join(["measured, with 95 % interval", "of", *names, "aimed at"]) + " |",
        "|---" * (len(names) + 3) + "|",
    ]
    for label, path, unit, aim in ROWS:
        figures = [look_up(table["models"][name], path) for name in names]
        known = [figure for figure in figures if figure is not None]
        if not known:
            continue
        goal = f"{aim:g} {unit}".strip() if aim else "-"
        count = str(known[-1]["values"])
        row = [label, count, *(cell(figure, unit) for figure in figures), goal]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
