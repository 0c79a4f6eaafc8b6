"""Layers of configuration: YAML files with their bases, mappings, ``key=value`` overrides.

Everything here is plain mappings; types and names are checked in :mod:`framework.config.page`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from framework.config.resources import config_file
from framework.errors import UserError, first_line

Layer = dict[str, Any]


def read_file(path: Path, parts: Iterable[str], trail: tuple[Path, ...] = ()) -> Layer:
    """A YAML file merged over the files it names under ``base``.

    Args:
        path: the file.
        parts: sections that describe a part, see :func:`merge`.
        trail: files being read, to find circles.

    Raises:
        UserError: the file cannot be read, is no YAML, no mapping, or includes itself.
    """
    path = path.resolve()
    if path in trail:
        circle = " -> ".join(str(p) for p in (*trail[trail.index(path) :], path))
        raise UserError(f"{path} includes itself through 'base': {circle}.")
    return with_bases(read_yaml(path), path.parent, parts, (*trail, path))


def with_bases(
    data: Mapping[str, Any], folder: Path, parts: Iterable[str], trail: tuple[Path, ...] = ()
) -> Layer:
    """Merge a mapping over the files it names under ``base``.

    Args:
        data: the mapping.
        folder: where relative names of bases are looked for before the shipped ones.
        parts: see :func:`merge`.
        trail: files being read.
    """
    own = dict(data)
    bases = own.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(name, str) for name in bases):
        raise UserError(f"base is {bases!r}; expected a list of file names or shipped names.")
    merged: Layer = {}
    for name in bases:
        merged = merge(merged, read_file(find_base(name, folder), parts, trail), parts)
    return merge(merged, own, parts)


def find_base(name: str, folder: Path) -> Path:
    """A base: a file beside the one naming it (suffix optional), or a shipped configuration."""
    for beside in (folder / name, folder / f"{name}.yaml"):
        if beside.is_file():
            return beside
    return config_file(name)


def has_base(path: Path) -> bool:
    """Whether a file says itself what it is merged over (``base: []`` is nothing)."""
    return "base" in read_yaml(path)


def from_override(text: str) -> Layer:
    """One ``key=value`` as a nested mapping; the value is read as YAML.

    Raises:
        UserError: there is no ``=``, a key is empty, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(
            f"'{text}' is no override; expected key=value, e.g. matcher.cycle_threshold=0.3."
        )
    if " #" in value and value.strip()[0] not in "'\"[{":  # no comment, but text such as a path
        value = json.dumps(value.strip())
    try:
        return plain(OmegaConf.from_dotlist([f"{key.strip()}={value}"]))
    except Exception as error:  # YAML and OmegaConf have many classes, all mean the same here
        advice = _advice(error) or (
            "Quote text that holds any of { } [ ] , : # inside a list, e.g. "
            "'prompts=[\"a photo of a {}\"]'."
        )
        raise UserError(f"'{text}' cannot be read: {first_line(error)}. {advice}") from error


def _advice(error: BaseException) -> str:
    """What helps against an error of YAML that has one usual cause."""
    if "escape character" in str(error):
        return (
            "In double quotes a backslash begins an escape; put a regular expression in single "
            "quotes, e.g. ['up_blocks\\.1\\..*attn1']."
        )
    return ""


def merge(base: Mapping[str, Any], layer: Mapping[str, Any], parts: Iterable[str]) -> Layer:
    """Merge two layers section by section.

    Args:
        base: the lower layer.
        layer: the upper one; its options win.
        parts: names of the sections that describe a part. Text instead of a mapping is the part's
            name there, and another name starts from that part's own defaults: no option of the
            part it replaces is kept. Inside them mappings are merged likewise (a part may hold
            other parts).
    """
    merged = dict(base)
    for key, value in layer.items():
        old = merged.get(key)
        if key in parts and isinstance(value, str) and not value.startswith("${"):
            value = {"name": value}
        if key == "personalizers":  # they suit one model; another model's go altogether
            merged[key] = value
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = key in parts and value.get("name", old.get("name")) != old.get("name")
            if key in parts:
                merged[key] = dict(value) if renamed else over(old, value)
            else:
                merged[key] = {**old, **value}
        else:
            merged[key] = value
    return merged


def over(base: Any, layer: Any) -> Any:
    """Merge one value over another: mappings key by key, unless the layer names another part.

    Text beside a mapping is a part's name.
    """
    if isinstance(base, Mapping) and "name" in base and _is_name(layer):
        layer = {"name": layer}
    if isinstance(layer, Mapping) and _is_name(base):
        base = {"name": base}
    if not (isinstance(base, Mapping) and isinstance(layer, Mapping)):
        return layer
    if "name" in layer and layer["name"] != base.get("name"):
        return dict(layer)
    merged = dict(base)
    for key, value in layer.items():
        merged[key] = over(merged.get(key), value)
    return merged


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("${")


def plain(source: Any) -> Layer:
    """Anything OmegaConf can hold as nested dicts and lists, interpolations left alone.

    Raises:
        UserError: there is something in it that cannot stand in a YAML file.
    """
    try:
        return OmegaConf.to_container(OmegaConf.create(source), resolve=False)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        where = error.full_key or "The configuration"
        raise UserError(
            f"{where} cannot stand in a YAML file: {first_line(error)}. Use numbers, "
            "text, lists and mappings."
        ) from error


def resolved(data: Mapping[str, Any], keys: Iterable[str] | None = None) -> Layer:
    """Resolve ``${...}``.

    Args:
        data: a layer.
        keys: top-level keys to resolve; None for all.

    Raises:
        UserError: an interpolation names nothing, or itself.
    """
    try:
        tree = OmegaConf.create(dict(data))
        if keys is None:
            return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]
        chosen = {key: OmegaConf.select(tree, key) for key in keys if key in data}
        return {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in chosen.items()
        }
    except OmegaConfBaseException as error:
        where = error.full_key or "configuration"
        raise UserError(f"{where}: {first_line(error)}; ${{section.key}} names a value.") from error


def read_yaml(path: Path) -> Layer:
    """A YAML file as it is, its bases not read.

    Raises:
        UserError: it cannot be read, is no YAML, or no mapping.
    """
    try:
        data = plain(OmegaConf.load(path))
    except Exception as error:  # as above
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or first_line(error)
        advice = _advice(error)
        raise UserError(
            f"{path}{where} is not valid YAML: {what}.{' ' if advice else ''}{advice}"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}; expected a mapping of sections.")
    return data
