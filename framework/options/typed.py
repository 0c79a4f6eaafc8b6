"""A mapping, as YAML gives it -> an option dataclass, every value converted and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from framework.errors import UserError, nearest
from framework.options.nested import checked, is_nested

#: What stands in a shipped file where the user must give a value.
MANDATORY = "???"


def fill(section: str, cls: type, options: Any) -> Any:
    """Build an option dataclass from a mapping, converting and checking every value.

    Args:
        section: key the options stand under, for messages; empty at the top level.
        cls: the dataclass.
        options: option names and values, as YAML gives them.

    Raises:
        UserError: an unknown option, a value of another type or out of range; the message starts
            with the full key.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"{section} is {shown(options)}; expected a mapping of options.")
    prefix = f"{section}." if section else ""
    typed = _structured(cls)
    known = [item.name for item in fields(cls)]
    inner = {item.name: item.metadata for item in fields(cls) if is_nested(item.metadata)}
    nested: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise UserError(
                f"Unknown key '{prefix}{key}'.{nearest(str(key), known)} "
                f"Known: {', '.join(known) or '(no options)'}."
            )
        if value == MANDATORY:
            raise UserError(f"{prefix}{key} has no value yet; give one: {prefix}{key}=...")
        if key in inner:
            nested[key] = checked(inner[key], value, f"{prefix}{key}")
        else:
            given[key] = value
    try:
        typed = OmegaConf.merge(typed, given)
    except OmegaConfBaseException as error:
        raise _blamed(prefix, cls, typed, given) from error
    try:
        made = OmegaConf.to_object(typed)
        return replace(made, **nested) if nested else made  # type: ignore[type-var]
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix or 'configuration'}: {str(error).splitlines()[0]}") from error
    except (UserError, ValueError) as error:
        raise UserError(f"{prefix}{error}") from error


@lru_cache(maxsize=512)
def _structured(cls: type) -> Any:
    """The dataclass with its defaults, to merge over; merging copies it."""
    return OmegaConf.structured(cls)


def _blamed(prefix: str, cls: type, typed: Any, given: Mapping[str, Any]) -> UserError:
    """The first option whose value the dataclass does not take, in words."""
    for key, value in given.items():
        try:
            OmegaConf.merge(typed, {key: value})
        except OmegaConfBaseException:
            expected = words(get_type_hints(cls).get(str(key), Any))
            return UserError(f"{prefix}{key} is {shown(value)}; expected {expected}.")
    return UserError(f"{prefix or 'configuration'} has values that do not go together.")


def shown(value: Any) -> str:
    """A value about as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return f"'{value}'" if isinstance(value, str) else repr(value)


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def words(kind: Any) -> str:
    """A type in words: ``int | None`` is "an integer or null"."""
    if kind in _WORDS:
        return _WORDS[kind]
    name = getattr(kind, "__origin__", None)
    arguments = getattr(kind, "__args__", ())
    if name in (list, tuple):
        plural = {int: "integers", float: "numbers", str: "texts", bool: "true or false"}
        return f"a list of {plural.get(arguments[0], 'values') if arguments else 'values'}"
    if name is dict or kind is dict:
        return "a mapping"
    if arguments and name is not dict:
        return " or ".join(words(argument) for argument in arguments)
    return f"a {getattr(kind, '__name__', kind)}"
