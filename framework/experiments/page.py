"""A run folder -> ``report.html``: table, plots and pictures in one file, no server needed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from framework.concepts.folders import load_concept
from framework.concepts.images import load_image
from framework.config.layers import read_yaml
from framework.config.page import ConceptConfig
from framework.experiments.cells import Cell, slug
from framework.experiments.folder import VARIANTS, read_cells, read_plan
from framework.experiments.results import Results
from framework.experiments.tables import read_scores, table_note
from framework.metrics.panel import LOWER, NEUTRAL, SCORES
from framework.metrics.protocols import protocol
from framework.options import fill
from framework.runs.atomic import write_atomic
from framework.runs.folder import flattened
from framework.runs.machine import versions
from framework.types import Concept
from framework.viz.matches import sized_reference

NAME = "report.html"
TEMPLATE = "page.html.j2"
#: Longest side of a picture in the page, and how many pictures a page takes at most.
SIDE = 256
MOST = 2400
#: Options that differ between variants and say nothing of them.
NOT_OF_INTEREST = ("output", "concept.name")


def write_report(
    folder: Path,
    found: Sequence[Results],
    costs: Sequence[Mapping[str, Any]] = (),
    most: int = MOST,
) -> Path:
    """Write the report of a scored run.

    Args:
        folder: of the run.
        found: results, one for each protocol.
        costs: rows of seconds and memory, one for each variant.
        most: pictures in the page; of a larger run the first seeds of every prompt are shown.

    Returns:
        The page's path.
    """
    said = read_plan(folder)
    everything = read_cells(folder)
    cells = first_seeds(everything, most)
    concepts = {
        name: load_concept(fill("concept", ConceptConfig, section))
        for name, section in said["concepts"].items()
    }
    references: dict[str, dict[str, str]] = {}
    pictures = [_picture(folder, cell, concepts, references) for cell in cells]
    data = {
        "variants": list(said["variants"]),
        "baseline": said["baseline"],
        "scores": {name: SCORES[name] for each in found for name in each.scores},
        "order": [n for n in SCORES if any(n in each.scores for each in found)],
        "lower": list(LOWER),
        "neutral": list(NEUTRAL),
        "protocols": {each.protocol: _protocol(each) for each in found},
        "cells": {each.protocol: _rows(folder, each.protocol) for each in found},
        "pictures": pictures,
        "references": references,
    }
    page = _template().render(
        name=said["name"],
        description=said.get("description", ""),
        identity=said["identity"],
        count=len(everything),
        shown=len(cells),
        variants=said["variants"],
        baseline=said["baseline"],
        concepts=list(concepts),
        prompts=list(dict.fromkeys(cell.prompt for cell in everything)),
        plots=_plots(folder, found),
        differences=differing_options(folder, said["variants"]),
        costs=costs,
        versions=versions(),
        hardware=found[0].hardware if found else "",
        data=data,
    )
    return write_atomic(folder / NAME, page)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = files("framework.experiments").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text)


def differing_options(
    folder: Path, variants: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """The options in which the variants' resolved configurations differ.

    Args:
        folder: of the run; holds a file for each variant.
        variants: name -> what it varies, for a run that has no such files.

    Returns:
        Key -> its value in each variant, in their order; empty where a variant has not the option.
    """
    flat: list[dict[str, Any]] = []
    for name, values in variants.items():
        file = folder / VARIANTS / f"{slug(name)}.yaml"
        flat.append(flattened(read_yaml(file)) if file.is_file() else dict(values))
    keys = dict.fromkeys(key for options in flat for key in options if key not in NOT_OF_INTEREST)
    rows = {key: [str(options.get(key, "")) for options in flat] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def first_seeds(cells: Sequence[Cell], most: int) -> list[Cell]:
    """All cells, or those of the first seeds if there are too many; at least one seed."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    while len(seeds) > 1 and sum(cell.seed in seeds for cell in cells) > most:
        seeds.pop()
    return [cell for cell in cells if cell.seed in seeds]


def data_uri(image: Image.Image, side: int = SIDE) -> str:
    """A picture as JPEG inside a text, at most ``side`` pixels long."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _picture(
    folder: Path,
    cell: Cell,
    concepts: Mapping[str, Concept],
    references: dict[str, dict[str, str]],
) -> dict[str, Any]:
    path = folder / cell.file
    image = load_image(path)
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    index = min(int(said.get("reference_index", 0)), len(concepts[cell.concept].images) - 1)
    shown = references.setdefault(cell.concept, {})
    if str(index) not in shown:
        original = concepts[cell.concept].images[index]
        shown[str(index)] = data_uri(
            sized_reference(original, image.size, said.get("resize", "crop"))
        )
    return {
        "id": cell.id,
        "variant": cell.variant,
        "concept": cell.concept,
        "prompt": cell.prompt,
        "seed": cell.seed,
        "reference": str(index),
        "matches": said.get("matches", []),
        "src": data_uri(image),
    }


def _protocol(results: Results) -> dict[str, Any]:
    about = protocol(results.protocol)
    return {
        "variants": results.to_dict()["variants"],
        "note": table_note(results, "Bold"),
        "about": f"Text: {about.text}. References: {about.references}. Identity encoder sees: "
        f"{about.identity}. CLIP sees: {about.clip}.",
    }


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """What the page computes filtered means from."""
    return [
        {key: row[key] for key in ("id", "variant", "concept", "prompt")}
        | {key: row[key] for key in SCORES if row[key] is not None}
        for row in read_scores(folder, name)
    ]


def _plots(folder: Path, found: Sequence[Results]) -> list[dict[str, str]]:
    plots = []
    for results in found:
        for name, title in (
            ("trade_off", "Subject fidelity against text fidelity"),
            ("curve", "Scores over the swept option"),
        ):
            path = folder / "results" / results.protocol / f"{name}.png"
            if not path.is_file():
                continue
            told = "; ".join(
                f"{variant}: "
                + ", ".join(
                    f"{SCORES[key]} {entry.mean.mean:.3f}"
                    for key, entry in results.entries[variant].items()
                    if key in ("identity", "clip_text")
                )
                for variant in results.variants
            )
            content = base64.b64encode(path.read_bytes()).decode()
            plots.append(
                {
                    "title": f"{title} ({results.protocol})",
                    "alt": f"{title}, protocol {results.protocol}. {told}",
                    "src": f"data:image/png;base64,{content}",
                }
            )
    return plots
