"""What ``demo`` and ``compare`` write and print alike: pictures, scores, tables."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from framework.config.page import Config
    from framework.experiments.compare import Comparison

PACKAGES = ("dreammatcher", "torch", "diffusers", "transformers", "timm", "torchmetrics")
SHOWN_MATCHES = 4


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def traced_cells(config: Config) -> list[int]:
    """Which pictures ``matches.png`` shows: the first seed of the first few prompts."""
    return [index * len(config.seeds) for index in range(min(len(config.prompts), SHOWN_MATCHES))]


def write_images(comparison: Comparison, folder: Path) -> None:
    """Every picture as ``images/<arm>/<prompt-index>-<seed>.png``, each in one piece."""
    from framework.runs.atomic import atomic_path

    for name, arm in comparison.arms.items():
        for cell, image in zip(comparison.cells, arm.images, strict=True):
            with atomic_path(folder / "images" / name / cell.file) as temporary:
                image.save(temporary)


def write_grid(comparison: Comparison, report: dict[str, Any], folder: Path) -> Path:
    """``grid.png``: references, baseline, DreamMatcher."""
    from framework.concepts.text import fill
    from framework.experiments.compare import BASELINE, LABELS, TREATED
    from framework.runs.atomic import atomic_path
    from framework.viz.grid import Row, draw_grid

    concept = comparison.concept
    rows = [
        Row(LABELS[name], f"identity {report[name]['identity']:.2f}", arm.images, name == TREATED)
        for name, arm in comparison.arms.items()
    ]
    scaled = [report[name]["scaled"]["identity"] for name in (BASELINE, TREATED)]
    if None in scaled:
        subtitle = "same weights, same prompts, same noise in both rows"
    else:
        subtitle = (
            f"identity {100 * scaled[0]:.0f} % → {100 * scaled[1]:.0f} %, where 0 % is another "
            "object and 100 % another real picture of this one; same weights, same noise"
        )
    picture = draw_grid(
        f"Baseline and DreamMatcher: {concept.name}",
        subtitle,
        concept.images,
        rows,
        [fill(cell.prompt, concept) for cell in comparison.cells],
    )
    with atomic_path(folder / "grid.png") as temporary:
        picture.save(temporary)
    return folder / "grid.png"


def write_matches(comparison: Comparison, config: Config, folder: Path) -> Path:
    """``matches.png``: what the last matched step of DreamMatcher's arm saw."""
    from framework.concepts.text import fill
    from framework.experiments.compare import TREATED
    from framework.runs.atomic import atomic_path
    from framework.viz.matches import draw_matches, last_matched, matches_of, sized_reference

    concept, arm = comparison.concept, comparison.arms[TREATED]
    results = [arm.images[index] for index in comparison.traced]
    captions = [fill(comparison.cells[index].prompt, concept) for index in comparison.traced]
    sampler = config.sampler
    reference = sized_reference(
        concept.images[sampler.reference_index], results[0].size, sampler.resize
    )
    matches = matches_of(arm.trace, reference, results, captions)
    step = last_matched(arm.trace)
    where = "" if step is None else f"  ·  step {step.step + 1} of {len(arm.trace)}"
    figure = draw_matches(matches, f"What DreamMatcher matched: {concept.name}{where}")
    with atomic_path(folder / "matches.png") as temporary:
        figure.savefig(temporary)
    return folder / "matches.png"


def write_json(path: Path, data: Any) -> Path:
    """JSON in one piece."""
    from framework.runs.atomic import write_atomic

    write_atomic(path, (json.dumps(data, indent=2) + "\n").encode())
    return path


def table_of(report: dict[str, Any], title: str) -> Table:
    """One concept's similarities of both arms, their difference and the places on the scale."""
    from rich.table import Table

    from framework.experiments.compare import BASELINE, LABELS, TREATED
    from framework.metrics.judge import SCORES, TITLES

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("similarity")
    for name in (LABELS[BASELINE], LABELS[TREATED], "difference", "on the scale"):
        table.add_column(name, justify="right")
    for name in SCORES:
        scaled = [report[arm]["scaled"].get(name) for arm in (BASELINE, TREATED)]
        table.add_row(
            TITLES[name],
            f"{report[BASELINE][name]:.3f}",
            f"{report[TREATED][name]:.3f}",
            f"{report['difference'][name]:+.3f}",
            "" if None in scaled else f"{scaled[0]:.2f} → {scaled[1]:.2f}",
        )
    return table
