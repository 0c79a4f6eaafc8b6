"""The benchmark's run folder: what it was made of, and the records of finished groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.config.page import Config, to_plain
from framework.config.sources import foreign_sources
from framework.matchbench.field import Field
from framework.runs.folder import RunFolder

SETTINGS, GROUPS, LEFT_OUT = "bench.json", "groups", "left_out.json"
#: Changes whenever records do, so that old ones are not mixed with new ones.
FORMAT = 2


def describe_run(config: Config, taking_part: Field, **more: Any) -> dict[str, Any]:
    """Everything the records depend on, as plain values."""
    plain = to_plain(config)
    shown = [("extractor", entry.section) for entry in taking_part.extractors]
    shown += [("matcher", entry.section) for entry in taking_part.matchers]
    sources = config.sources | foreign_sources(shown, config.plugins)
    sampler = {k: v for k, v in plain["sampler"].items() if k != "batch_size"}
    return {
        "format": FORMAT,
        "model": {k: v for k, v in plain["model"].items() if k != "notes"},
        "sampler": sampler,
        "trajectory": plain["trajectory"],
        "mask": plain["mask"],
        "extractors": {entry.label: entry.section for entry in taking_part.extractors},
        "matchers": {entry.label: entry.section for entry in taking_part.matchers},
        **({"sources": sources} if sources else {}),
        **more,
    }


def bench_folder(path: Path, about: Mapping[str, Any]) -> RunFolder:
    """The folder of a benchmark."""
    here = json.loads(json.dumps(about))
    text = json.dumps(here, indent=2) + "\n"
    return RunFolder(path, SETTINGS, here, text, "benchmark", differences=_differences)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    names = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return [f"{', '.join(names)} differ"] if names else []


def read_records(path: Path) -> list[Any] | None:
    """A list from a file; None if there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) else None
