"""Run folders: one run each, told apart by a note that says what the run is made of."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from framework.errors import UserError
from framework.runs.atomic import write_atomic

logger = logging.getLogger(__name__)

#: Settings that say where and how, not what: a run may go on with other values of these.
FREE_KEYS = (
    "output", "sampler.batch_size",
    "cache.where", "cache.folder", "cache.max_gigabytes", "cache.max_entries",
)  # fmt: skip
_SHOWN = 4

#: What the note says, what it should say -> what differs, in words; empty for the same run.
Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]


def differing_keys(there: Any, here: Any) -> list[str]:
    """The keys in which two nested mappings differ, with both values."""
    old, new = flattened(there), flattened(here)
    keys = [key for key in {**old, **new} if key not in FREE_KEYS]
    return [
        f"{key} is {old.get(key, _ABSENT)!r} there, {new.get(key, _ABSENT)!r} now"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


@dataclass(frozen=True)
class RunFolder:
    """A folder for the files of one run.

    Attributes:
        path: the folder; it need not exist.
        note: file in it that says what the run is made of, written before anything else.
        about: what the note of this run says, for comparison with one that is there.
        text: the note as it is written; None: whoever opens the folder writes it.
        kind: what such a run is called in messages.
        beside: files that may be there although the note is not.
        differences: how two notes are compared.
    """

    path: Path
    note: str
    about: Mapping[str, Any]
    text: str | None
    kind: str = "run"
    beside: tuple[str, ...] = ()
    differences: Differences = differing_keys

    def refusal(self) -> str | None:
        """Why the run cannot be in this folder; None where it can."""
        if self.path.exists() and not self.path.is_dir():
            return f"The output '{self.path}' is a file; give a folder."
        noted = self.path / self.note
        if noted.is_file():
            there = _read(noted)
            if there is None:
                return f"{noted} is damaged; remove its folder, or give another output folder."
            found = self.differences(there, self.about)
            if not found:
                return None
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            return (
                f"The output folder '{self.path}' holds the {self.kind} of another configuration: "
                f"{'; '.join(found[:_SHOWN])}{more}. Give another output folder, or remove that "
                "one."
            )
        strangers = [name for name in _visible(self.path) if name not in self.beside]
        if not strangers:
            return None
        return (
            f"The output folder '{self.path}' is not empty and holds no {self.kind}: it has "
            f"{', '.join(strangers[:_SHOWN])}{' ...' if len(strangers) > _SHOWN else ''}, but no "
            f"{self.note}. Give a new or an empty folder."
        )

    def open(self) -> Path:
        """Make the folder, or go on in it.

        Raises:
            UserError: it holds another run (naming what differs), or strangers' files, or is a
                file.
        """
        refusal = self.refusal()
        if refusal is not None:
            raise UserError(refusal)
        noted = self.path / self.note
        if self.text is not None and not noted.is_file():
            write_atomic(noted, self.text)
        return self.path

    def free(self) -> RunFolder:
        """This folder, or where it is taken the first of ``NAME-2``, ``NAME-3``, ... that is not.

        One that holds this very run is not taken: the run goes on in it.
        """
        for count in itertools.count(2):
            candidate = replace(self, path=self.path.with_name(f"{self.path.name}-{count}"))
            if count == 2 and self.refusal() is None:
                return self
            if candidate.refusal() is None:
                logger.info("%s is taken; this one goes to %s.", self.path, candidate.path)
                return candidate
        raise AssertionError  # pragma: no cover - counting does not end


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _visible(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def _read(path: Path) -> Mapping[str, Any] | None:
    """What a note says; None if it is damaged."""
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception:  # YAML errors have many classes, all mean the same here
        return None
    return content if isinstance(content, Mapping) else None


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()
