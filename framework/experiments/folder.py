"""The folder of a run: which plan it holds, which pictures are there and whole."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from framework.errors import UserError
from framework.experiments.batches import CellBatch, batches_of
from framework.experiments.cells import Cell, metadata, slug
from framework.experiments.plan import Plan
from framework.experiments.tables import csv_text
from framework.runs.atomic import read_json, write_atomic
from framework.runs.folder import RunFolder

PLAN = "plan.json"
CELLS = "cells.csv"
WEIGHTS = "weights"
LOG = "log"
VARIANTS = "variants"
#: What a picture's file says of it.
MADE_OF = ("id", "concept", "prompt", "seed", "noise_seed")


def plan_folder(path: Path | str, plan: Plan) -> RunFolder:
    """The folder of a plan, told apart by all its cells; the scoring may change."""
    here = json.loads(json.dumps(described(plan)))
    beside = (CELLS, WEIGHTS, LOG, VARIANTS)
    place = Path(path).expanduser()
    return RunFolder(place, PLAN, here, None, "run", beside, _differences)


def open_folder(folder: Path | RunFolder, plan: Plan) -> Path:
    """Make the folder of a plan, or go on in it.

    Args:
        folder: a path for this plan alone, or a folder that is told apart in another way.
        plan: the plan.

    Raises:
        UserError: it holds another plan (saying what differs), or strangers' files, or is a file.
    """
    place = folder if isinstance(folder, RunFolder) else plan_folder(folder, plan)
    path = place.open()
    if read_json(path / PLAN) != json.loads(json.dumps(described(plan))):
        write_plan(path, plan)
    return path


def write_plan(folder: Path, plan: Plan) -> None:
    """``variants/*.yaml``, ``cells.csv``, and last ``plan.json``."""
    seen: set[str] = set()
    for setting in plan.settings:
        if setting.variant in seen:
            continue
        seen.add(setting.variant)
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(setting.config)))
        write_atomic(folder / VARIANTS / f"{slug(setting.variant)}.yaml", text)
    rows = [metadata(cell, {"file": cell.file}) for cell in plan.cells]
    write_atomic(folder / CELLS, csv_text(rows))
    write_atomic(folder / PLAN, json.dumps(described(plan), indent=2) + "\n")


def described(plan: Plan) -> dict[str, Any]:
    """What identifies a plan, in words a reader can compare."""
    return {
        "name": plan.name,
        "identity": plan.identity,
        "variants": {each.name: dict(each.values) for each in plan.variants},
        "baseline": plan.baseline,
        "description": plan.description,
        "protocols": list(plan.protocols),
        "concepts": {s.concept: asdict(s.config.concept) for s in reversed(plan.settings)},
        "evaluation": asdict(plan.config.evaluation),
        "scaled": plan.scaled,
        "cells": len(plan.cells),
        "settings": {f"{s.variant} / {s.concept}": s.digest[:16] for s in plan.settings},
        "prompts": list(dict.fromkeys(cell.prompt for cell in plan.cells)),
        "seeds": list(dict.fromkeys(cell.seed for cell in plan.cells)),
    }


def whole(folder: Path, cell: Cell) -> bool:
    """Whether a cell's picture and metadata are there, belong to it, and are not damaged."""
    picture = folder / cell.file
    try:
        said = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        content = picture.read_bytes()
    except (OSError, ValueError):
        return False
    return (
        isinstance(said, dict)
        and said.get("id") == cell.id
        and said.get("sha256") == hashlib.sha256(content).hexdigest()
    )


def missing(folder: Path, batches: Sequence[CellBatch]) -> list[CellBatch]:
    """The batches of which at least one picture is not there, or not whole."""
    return [b for b in batches if not all(whole(folder, cell) for cell in b.cells)]


def write_picture(folder: Path, cell: Cell, image: Image.Image, extra: dict[str, Any]) -> None:
    """The picture, then its metadata, each in one piece; the second says the first is there."""
    info = PngInfo()
    told = {key: getattr(cell, key) for key in MADE_OF}  # not whose variant: equal cells, bytes
    info.add_text("dreammatcher", json.dumps(told, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    content = buffer.getvalue()
    path = folder / cell.file
    write_atomic(path, content)
    said = metadata(cell, extra | {"sha256": hashlib.sha256(content).hexdigest()})
    write_atomic(path.with_suffix(".json"), json.dumps(said, sort_keys=True) + "\n")


def plan_batches(plan: Plan) -> list[CellBatch]:
    """All batches of a plan."""
    return batches_of(plan.settings)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What tells two plans apart, in words; nothing for the same cells."""
    if there.get("identity") == here["identity"]:
        return []
    differing = (
        [f"it is the plan '{there.get('name')}'"] if there.get("name") != here["name"] else []
    )
    for key in ("variants", "concepts", "prompts", "seeds"):
        if _names(there.get(key)) != _names(here[key]):
            differing.append(f"{key}: {_brief(there.get(key))} there, {_brief(here[key])} now")
    if not differing:
        old = there.get("settings") or {}
        changed = [name for name, digest in here["settings"].items() if old.get(name) != digest]
        differing.append(
            f"the resolved configuration (or the reference pictures) of {len(changed)} of its "
            f"settings, '{changed[0] if changed else '?'}' for one; see the files in {VARIANTS}/"
        )
    return differing


def _names(value: Any) -> Any:
    return sorted(value) if isinstance(value, dict | list) else value


def read_plan(folder: Path) -> dict[str, Any]:
    """What ``plan.json`` of a run folder says.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        raise UserError(
            f"'{folder}' holds no run that can be scored: it has no {PLAN}. Give a folder that "
            "'dreammatcher ablate', 'compare' or 'demo' wrote."
        )
    said = read_json(path)
    lacking = [key for key in ("variants", "concepts", "evaluation", "baseline") if key not in said]
    if lacking:
        raise UserError(f"{path} is damaged: it lacks {', '.join(lacking)}; draw it anew.")
    return said


def read_cells(folder: Path) -> list[Cell]:
    """The cells of a run folder.

    Raises:
        UserError: their list is missing or damaged.
    """
    path = folder / CELLS
    numbers = ("prompt_index", "seed", "noise_seed")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
            return [Cell(**row | {key: int(row[key]) for key in numbers}) for row in rows]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"'{folder}' is no whole run folder: {path} is missing or damaged. Give the folder of "
            f"a 'dreammatcher ablate' run; it holds {PLAN} and {CELLS}."
        ) from error


def _brief(value: Any) -> str:
    text = json.dumps(list(value) if isinstance(value, dict) else value)
    return text if len(text) < 120 else text[:117] + "..."
