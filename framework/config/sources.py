"""Source of parts that are not the package's own: it belongs to what a run is made of.

A shipped part is named by the version of the package. One of somebody else's may be edited between
two runs of the same configuration, whose pictures then differ.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from framework.registry import REGISTRIES

#: Top-level packages whose source is known by the version.
OWN = frozenset({"framework", "matchers", "personalizers"})


def foreign_sources(sections: Iterable[tuple[str, Any]], modules: Iterable[str]) -> dict[str, str]:
    """Hash of the source of every module that is not ours.

    Args:
        sections: pairs of a kind, e.g. ``matcher``, and the checked section of such a part (or a
            ready part), with parts inside it.
        modules: further modules, such as the plug-ins of a configuration.

    Returns:
        module -> 16 hexadecimal digits, sorted; a module in a package stands for the whole package.
    """
    names = set(modules)
    for kind, section in sections:
        for cls in _classes(kind, section):
            names |= {base.__module__ for base in cls.__mro__}
    return {name: _hash(name) for name in sorted(names) if _foreign(name)}


def _classes(kind: str, section: Any) -> list[type]:
    """Classes of a part and of the parts inside it."""
    if not isinstance(section, Mapping):
        inner = section.section() if hasattr(section, "section") else {}
        return [type(section), *_inside(type(section), inner)]
    cls = REGISTRIES[kind].get(section["name"])
    return [cls, *_inside(cls, section)]


def _inside(cls: Any, section: Mapping[str, Any]) -> list[type]:
    found: list[type] = []
    for item in fields(cls.config_class()):
        kind, value = item.metadata.get("part"), section.get(item.name)
        if kind is None or value is None:
            continue
        several = item.metadata.get("several") is not None
        for one in value.values() if several else [value]:
            found += _classes(kind, one)
    return found


def _foreign(module: str) -> bool:
    """Whether a module is a plug-in's: neither ours nor a library that parts are derived from."""
    top = module.partition(".")[0]
    return top not in OWN and top not in sys.stdlib_module_names and top not in ("torch", "typing")


def _hash(module: str) -> str:
    """Hash of the file of a module, or of the whole package it is in."""
    digest = hashlib.sha256()
    for file in _files(module.partition(".")[0]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _files(top: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # __main__ of a notebook has none
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        folders = map(Path, spec.submodule_search_locations)
        return sorted(file for folder in folders for file in folder.rglob("*.py"))
    return [Path(spec.origin)] if spec.has_location and spec.origin else []
