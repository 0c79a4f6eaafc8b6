"""``grid.png`` and ``matches.png`` of two arms, drawn from what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from framework.concepts.images import load_image
from framework.concepts.text import fill_prompt
from framework.experiments.arms import ARMS, BASELINE, LABELS, TREATED, Pair
from framework.experiments.cells import Cell
from framework.experiments.draw import flow_file
from framework.runs.atomic import atomic_path
from framework.types import Concept
from framework.viz.grid import Row, draw_grid
from framework.viz.matches import Match, draw_matches, sized_reference


def write_grid(
    pair: Pair, concept: Concept, report: dict[str, Any], folder: Path, path: Path
) -> Path:
    """References, the baseline's row, DreamMatcher's row.

    Args:
        pair: what was drawn.
        concept: the concept, with its pictures.
        report: see :meth:`Pair.report`.
        folder: of the run.
        path: the file.
    """
    places = {arm: report[arm]["scaled"].get("identity") for arm in ARMS}
    if None in places.values():
        notes = {arm: f"identity {report[arm]['identity']:.2f}" for arm in ARMS}
        subtitle = "same weights, same prompts, same noise in both rows"
    else:
        notes = {arm: f"identity {100 * place:.0f} %" for arm, place in places.items()}
        subtitle = (
            "identity: 0 % is another object, 100 % another real picture of this one; same "
            "weights, same noise"
        )
    rows = [
        Row(
            LABELS[arm],
            notes[arm],
            [load_image(folder / cell.file) for cell in pair.cells[arm]],
            arm == TREATED,
        )
        for arm in ARMS
    ]
    cells = pair.cells[TREATED]
    picture = draw_grid(
        f"Baseline and DreamMatcher: {concept.name}",
        subtitle,
        concept.images,
        rows,
        [(fill_prompt(cell.prompt, concept), f"seed {cell.seed}") for cell in cells],
    )
    with atomic_path(path) as temporary:
        picture.save(temporary)
    return path


def write_matches(pair: Pair, concept: Concept, steps: int, folder: Path) -> Path:
    """What the last matched step of DreamMatcher's arm saw, of the pictures that keep it.

    Args:
        pair: what was drawn.
        concept: the concept, with its pictures.
        steps: how many a picture takes.
        folder: of the run.
    """
    matches, step = [], None
    for plain, cell in zip(pair.cells[BASELINE], pair.cells[TREATED], strict=True):
        file = flow_file(folder, cell)
        if file.is_file():
            seen = load_file(file)
            step = int(seen["step"])
            matches.append(_match(plain, cell, seen, concept, folder))
    where = "" if step is None else f"  ·  step {step + 1} of {steps}"
    figure = draw_matches(matches, f"What DreamMatcher matched: {concept.name}{where}")
    with atomic_path(folder / "matches.png") as temporary:
        figure.savefig(temporary)
    return folder / "matches.png"


def _match(plain: Cell, cell: Cell, seen: dict[str, Any], concept: Concept, folder: Path) -> Match:
    result = load_image(folder / cell.file)
    said = json.loads((folder / cell.file).with_suffix(".json").read_text(encoding="utf-8"))
    reference = concept.images[said["reference_index"]]
    return Match(
        caption=f"{fill_prompt(cell.prompt, concept)}, seed {cell.seed}",
        reference=sized_reference(reference, result.size, said["resize"]),
        result=result,
        flow=seen["flow"],
        confidence=seen["confidence"],
        mask=seen["mask"],
        baseline=load_image(folder / plain.file),
        reference_mask=seen["reference_mask"],
    )
