"""The benchmark's run folder: what it was made of, and the records of finished groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.config.page import Config, to_plain
from framework.errors import UserError
from framework.matchbench.field import Field
from framework.runs.atomic import write_atomic

SETTINGS, GROUPS, LEFT_OUT = "bench.json", "groups", "left_out.json"
#: Changes whenever records do, so that old ones are not mixed with new ones.
FORMAT = 2


def describe_run(config: Config, taking_part: Field, **more: Any) -> dict[str, Any]:
    """Everything the records depend on, as plain values."""
    plain = to_plain(config)
    sampler = {k: v for k, v in plain["sampler"].items() if k != "batch_size"}
    return {
        "format": FORMAT,
        "model": {k: v for k, v in plain["model"].items() if k != "notes"},
        "sampler": sampler,
        "trajectory": plain["trajectory"],
        "mask": plain["mask"],
        "extractors": {entry.label: entry.section for entry in taking_part.extractors},
        "matchers": {entry.label: entry.section for entry in taking_part.matchers},
        **more,
    }


def open_folder(folder: Path, about: Mapping[str, Any]) -> None:
    """Make a folder for a benchmark, or go on in one.

    Raises:
        UserError: it holds another benchmark, or something else.
    """
    path = folder / SETTINGS
    here = json.loads(json.dumps(about))
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged; remove its folder, or give another.") from error
        differing = [k for k in {**there, **here} if there.get(k) != here.get(k)]
        if differing:
            raise UserError(
                f"The output folder '{folder}' holds another benchmark: {', '.join(differing)} "
                "differ. Give another --output, or remove that one."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"The output '{folder}' is not empty and holds no benchmark; give a new folder."
        )
    write_atomic(path, json.dumps(here, indent=2) + "\n")


def read_records(path: Path) -> list[Any] | None:
    """A list from a file; None if there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) else None
