"""Run folders: one configuration each, written beside its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from framework.config.page import Config, to_plain
from framework.errors import UserError
from framework.runs.atomic import write_atomic

CONFIG_FILE = "config.yaml"
#: Settings that say where and how, not what: a run may go on with other values of these.
FREE_KEYS = (
    "output", "sampler.batch_size",
    "cache.where", "cache.folder", "cache.max_gigabytes", "cache.max_entries",
)  # fmt: skip
_SHOWN = 4


def open_run(folder: Path, config: Config) -> Path:
    """Make a folder for the results of one configuration, or go on in one.

    The resolved configuration is written to ``config.yaml`` before anything else, in one piece. A
    folder that already holds it is accepted, so that an interrupted run goes on.

    Args:
        folder: where the results go; created if missing.
        config: what they are made with.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds another configuration's run (naming what differs), or is not
            empty and no run, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The output '{folder}' is a file; give a folder.")
    noted = folder / CONFIG_FILE
    if noted.is_file():
        _check_same(folder, _read(noted), to_plain(config))
        return folder
    strangers = _visible(folder)
    if strangers:
        raise UserError(
            f"The output folder '{folder}' is not empty and holds no run: it has "
            f"{', '.join(strangers[:_SHOWN])}{' ...' if len(strangers) > _SHOWN else ''}, but no "
            f"{CONFIG_FILE}. Give a new or an empty folder."
        )
    write_atomic(noted, config.to_yaml())
    return folder


def _visible(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def _read(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # YAML errors have many classes, all mean the same here
        raise UserError(
            f"{path} is damaged; remove its folder, or give another output folder."
        ) from error


def _check_same(folder: Path, there: Any, here: Mapping[str, Any]) -> None:
    old, new = _flat(there), _flat(here)
    keys = [key for key in {**old, **new} if key not in FREE_KEYS]
    differing = [key for key in keys if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    if not differing:
        return
    shown = "; ".join(
        f"{key} is {old.get(key, _ABSENT)!r} there, {new.get(key, _ABSENT)!r} now"
        for key in differing[:_SHOWN]
    )
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise UserError(
        f"The output folder '{folder}' holds the run of another configuration: {shown}{more}. "
        "Give another output folder, or remove that one."
    )


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
