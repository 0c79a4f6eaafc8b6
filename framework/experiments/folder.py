"""The folder of a run: which plan it holds, which pictures are there and whole."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from framework.errors import UserError
from framework.experiments.batches import Batch, batches_of
from framework.experiments.cells import Cell, metadata
from framework.experiments.plan import Plan
from framework.runs.atomic import write_atomic

PLAN = "plan.json"
CELLS = "cells.csv"
WEIGHTS = "weights"
LOG = "log"


def open_folder(folder: Path, plan: Plan) -> Path:
    """Make the folder of a plan, or go on in it.

    Raises:
        UserError: it holds another plan (saying what differs), or strangers' files, or is a file.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The output '{folder}' is a file; give a folder.")
    noted = folder / PLAN
    if noted.is_file():
        _check_same(folder, _read(noted), plan)
        return folder
    strangers = sorted(e.name for e in folder.iterdir() if not e.name.startswith(".")) if (
        folder.is_dir()
    ) else []  # fmt: skip
    strangers = [name for name in strangers if name not in (CELLS, WEIGHTS, LOG, "variants")]
    if strangers:
        raise UserError(
            f"The output folder '{folder}' is not empty and holds no ablation: it has "
            f"{', '.join(strangers[:4])}, but no {PLAN}. Give a new or an empty folder."
        )
    write_plan(folder, plan)
    return folder


def write_plan(folder: Path, plan: Plan) -> None:
    """``variants/*.yaml``, ``cells.csv``, and last ``plan.json``."""
    from framework.experiments.cells import slug
    from framework.experiments.tables import csv_text

    seen: set[str] = set()
    for setting in plan.settings:
        if setting.variant in seen:
            continue
        seen.add(setting.variant)
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(setting.config)))
        write_atomic(folder / "variants" / f"{slug(setting.variant)}.yaml", text)
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


def missing(folder: Path, batches: Sequence[Batch]) -> list[Batch]:
    """The batches of which at least one picture is not there, or not whole."""
    return [b for b in batches if not all(whole(folder, cell) for cell in b.cells)]


def write_picture(folder: Path, cell: Cell, image: Image.Image, extra: dict[str, Any]) -> None:
    """The picture, then its metadata, each in one piece; the second says the first is there."""
    info = PngInfo()
    info.add_text("dreammatcher", json.dumps(metadata(cell, {}), sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    content = buffer.getvalue()
    path = folder / cell.file
    write_atomic(path, content)
    said = metadata(cell, extra | {"sha256": hashlib.sha256(content).hexdigest()})
    write_atomic(path.with_suffix(".json"), json.dumps(said, sort_keys=True) + "\n")


def plan_batches(plan: Plan) -> list[Batch]:
    """All batches of a plan."""
    return batches_of(plan.settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged; remove its folder, or give another output folder."
        ) from error
    return said if isinstance(said, dict) else {}


def _check_same(folder: Path, there: dict[str, Any], plan: Plan) -> None:
    here = json.loads(json.dumps(described(plan)))
    if there.get("identity") == here["identity"]:
        if there != here:  # the scoring may change
            write_atomic(folder / PLAN, json.dumps(here, indent=2) + "\n")
        return
    differing = []
    for key in ("variants", "concepts", "prompts", "seeds"):
        if _names(there.get(key)) != _names(here[key]):
            differing.append(f"{key}: {_brief(there.get(key))} there, {_brief(here[key])} now")
    if not differing:
        old = there.get("settings") or {}
        changed = [name for name, digest in here["settings"].items() if old.get(name) != digest]
        differing.append(
            f"the resolved configuration (or the reference pictures) of {len(changed)} of its "
            f"settings, '{changed[0] if changed else '?'}' for one; compare {folder}/variants "
            "with 'dreammatcher ablate --dry-run'"
        )
    raise UserError(
        f"The output folder '{folder}' holds the run of another plan, '{there.get('name')}': "
        f"{'; '.join(differing)}. Give another --output, or remove that one."
    )


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
            f"'{folder}' holds no ablation: it has no {PLAN}. Give a folder that 'dreammatcher "
            "ablate' wrote."
        )
    said = _read(path)
    lacking = [key for key in ("variants", "concepts", "evaluation", "baseline") if key not in said]
    if lacking:
        raise UserError(f"{path} is damaged: it lacks {', '.join(lacking)}; draw it anew.")
    return said


def _brief(value: Any) -> str:
    text = json.dumps(list(value) if isinstance(value, dict) else value)
    return text if len(text) < 120 else text[:117] + "..."
