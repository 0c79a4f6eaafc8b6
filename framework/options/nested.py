"""Parts inside parts: an option that holds another part's section, checked like a top-level one.

    matcher: dict[str, Any] = option({"name": "cycle_argmax"}, "what is smoothed", part="matcher")

The section is a mapping with ``name`` and the part's options; its name alone will do, and from
Python a ready part. With ``parts=`` the option is a mapping of such sections under labels of the
user's choice; a label that is a part's name needs no ``name`` of its own, and ``null`` takes an
entry of a lower layer away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from framework.errors import UserError, nearest


def is_nested(metadata: Mapping[str, Any]) -> bool:
    """Whether a field's metadata say that it holds a part, or several."""
    return bool(metadata.get("part") or metadata.get("parts"))


def checked(metadata: Mapping[str, Any], value: Any, key: str) -> Any:
    """The value of a nested option with every option of every part spelled out and checked.

    Args:
        metadata: the field's.
        value: as YAML or Python gives it.
        key: full key of the option, for messages.

    Raises:
        UserError: something in it is unknown, of the wrong type or out of range.
    """
    if metadata.get("part"):
        return _section(metadata["part"], value, key)
    kind, also = metadata["parts"], metadata.get("also")
    if not isinstance(value, Mapping):
        raise UserError(
            f"{key} is {value!r}; expected a mapping of {kind} sections, e.g. "
            f"{key}: {{{_example(kind)}: {{}}}}."
        )
    found = {}
    for label, section in value.items():
        if section is None:
            continue
        if isinstance(section, Mapping) and "name" not in section:
            section = {"name": label, **section}
        found[str(label)] = _section(kind, section, f"{key}.{label}", also)
    return found


def build(kind: str, section: Any) -> Any:
    """Build the part of a checked section; a ready part is handed back."""
    from framework.registry import REGISTRIES

    if not isinstance(section, Mapping):
        return section
    options = dict(section)
    return REGISTRIES[kind].get(options.pop("name"))(**options)


def section_of(part: Any) -> dict[str, Any]:
    """The complete section of the configuration a ready part could have been built from.

    A part with a constructor of its own, whose options are not kept, has its name alone.
    """
    from framework.options.fields import options_of

    config = getattr(part, "config", None)
    options = {} if config is None else options_of(config)
    name = part.name or f"{type(part).__module__}:{type(part).__qualname__}"
    return {"name": name, **_plain(options)}


def _plain(value: Any) -> Any:
    """A value with every ready part in it as its section."""
    from framework.interfaces import Part

    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return section_of(value) if isinstance(value, Part) else value


def split(section: Any, also: type) -> tuple[Any, dict[str, Any]]:
    """A checked entry of several parts -> the part's own section, and what stands beside it."""
    if not isinstance(section, Mapping):
        return section, {item.name: item.default for item in fields(also)}
    beside = {item.name for item in fields(also)}
    return (
        {key: value for key, value in section.items() if key not in beside},
        {key: value for key, value in section.items() if key in beside},
    )


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


def _section(kind: str, value: Any, key: str, also: type | None = None) -> Any:
    from framework.options.fields import config_class, options_of
    from framework.options.typed import fill
    from framework.registry import REGISTRIES

    registry = REGISTRIES[kind]
    if isinstance(value, registry.interface):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UserError(
            f"{key} is {value!r}; expected a mapping with a name, e.g. "
            f"{key}: {{name: {_example(kind)}}}."
        )
    options = dict(value)
    name = options.pop("name")
    cls = config_class(registry.get(name))
    beside: dict[str, Any] = {}
    if also is not None:
        own = [item.name for item in fields(also)]
        known = [*own, *(item.name for item in fields(cls))]
        for option in options:
            if option not in known:
                raise UserError(
                    f"Unknown key '{key}.{option}'.{nearest(str(option), known)} "
                    f"Known: {', '.join(known)}."
                )
        given = {option: options.pop(option) for option in own if option in options}
        beside = options_of(fill(key, also, given))
    typed = fill(key, cls, options)
    return {"name": name, **beside, **options_of(typed)}


def _example(kind: str) -> str:
    from framework.registry import REGISTRIES

    return REGISTRIES[kind].names()[0]
