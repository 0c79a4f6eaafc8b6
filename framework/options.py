"""Options, stated once: a dataclass whose fields have a type, one line of help, and bounds.

    @dataclass
    class CycleArgmaxConfig(PartConfig):
        cycle_threshold: float = option(0.4, "lambda_c of Eq. 8", low=0.0, high=1.0)

Making one converts and checks every value, whether it comes from YAML or from Python. An option may
hold the section of another part, a mapping with ``name`` and that part's options::

    matcher: dict[str, Any] = option({"name": "cycle_argmax"}, "what is smoothed", part="matcher")

Its name alone will do, and from Python a ready part. With ``several=`` it is a mapping of such
sections under labels of the user's choice; a label that is a part's name needs no ``name`` of its
own, and ``null`` takes an entry of a lower layer away.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from framework.errors import UserError, check_range, in_words, nearest, shown
from framework.registry import REGISTRIES

#: What stands in a shipped file where the user must give a value.
MANDATORY = "???"
_LENIENT = ConfigDict(coerce_numbers_to_str=True)


def option(
    default: Any,
    help: str,  # noqa: A002 - the word every command-line user knows
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    part: str | None = None,
    several: type | None = None,
) -> Any:
    """A dataclass field with help, and the values it permits.

    Args:
        default: the value where none is given.
        help: one line for ``dreammatcher list``.
        low: smallest permitted number (of every element, where the option is a list).
        high: largest permitted number.
        choices: the permitted values.
        part: the option holds the section of another part of this kind, e.g. ``"matcher"``.
        several: it holds any number of them, a mapping of label to section; an option dataclass of
            what stands in each beside the part's own options.
    """
    metadata: dict[str, Any] = {"help": help, "low": low, "high": high, "choices": choices}
    metadata |= {"part": part, "several": several}
    if type(default).__hash__ is None:  # lists, mappings, sets, dataclasses
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class OptionError(UserError):
    """A value an option does not take; its text begins with, or quotes, the option's full key.

    Args:
        key: of the option, e.g. ``matcher.cycle_threshold``.
        text: the message, with ``\\0`` where the key stands.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text.replace("\0", key))
        self.key, self.text = key, text

    def under(self, section: str) -> OptionError:
        """The same of an option in a section; an empty one changes nothing."""
        return OptionError(f"{section}.{self.key}", self.text) if section else self


@dataclass
class PartConfig:
    """Base of every option dataclass: converts its values, and refuses what is wrong.

    Raises:
        UserError: a value of another type, out of range, or none of the choices.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint, metadata in _columns(cls):
            setattr(self, name, _checked(name, hint, metadata, getattr(self, name)))


@cache
def _columns(cls: Any) -> list[tuple[str, Any, Mapping[str, Any]]]:
    """Name, type and metadata of every option; a type that names what is not there is Any."""
    try:
        hints = get_type_hints(cls)
    except NameError:
        hints = {}
    return [(item.name, hints.get(item.name, Any), item.metadata) for item in fields(cls)]


def _checked(name: str, hint: Any, metadata: Mapping[str, Any], given: Any) -> Any:
    """The value of one option, converted to its type."""
    if isinstance(given, str) and given == MANDATORY:
        raise OptionError(name, "\0 has no value yet; give one: \0=...")
    if metadata.get("several"):
        return _sections(metadata["part"], given, name, metadata["several"])
    if metadata.get("part"):
        return _section(metadata["part"], given, name)
    if _holds_options(hint):
        return given if isinstance(given, hint) else fill(name, hint, given)
    if get_origin(hint) is list and _holds_options(get_args(hint)[0]):
        return _several(name, get_args(hint)[0], given)
    value = _converted(name, hint, given)
    for element in value if isinstance(value, list | tuple) else [value]:
        _check_number(name, element, given, metadata)
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        expected = ", ".join(map(shown, choices))
        advice = nearest(str(given), map(str, choices))
        raise OptionError(name, f"\0 is {shown(given)}; expected one of {expected}.{advice}")
    return value


def _holds_options(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, PartConfig)


def _several(name: str, cls: type, given: Any) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise OptionError(name, f"\0 is {shown(given)}; expected a list of mappings.")
    return [
        one if isinstance(one, cls) else fill(f"{name}[{place}]", cls, one)
        for place, one in enumerate(given)
    ]


def _check_number(name: str, value: Any, given: Any, metadata: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(name, f"\0 is {shown(given)}; expected a finite number.")
    low, high = metadata.get("low"), metadata.get("high")
    if value is None or (low is None and high is None):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(name, f"\0 is {shown(given)}; expected a number.")
    try:
        check_range("\0", value, low, high)
    except UserError as error:  # quoting what was written, 2 rather than 2.0
        written = str(error).replace(f"is {value};", f"is {given};")
        raise OptionError(name, str(error) if isinstance(given, list) else written) from None


def _converted(name: str, hint: Any, given: Any) -> Any:
    """A value of the type an option has."""
    adapter = _adapter(hint)
    if adapter is None:
        return given
    elements = given if isinstance(given, list | tuple) else [given]
    try:
        if not _admits(hint, bool) and any(isinstance(element, bool) for element in elements):
            raise ValueError("a switch is no number")
        return adapter.validate_python(given)
    except (ValidationError, ValueError):
        expected = in_words(hint)
        raise OptionError(name, f"\0 is {shown(given)}; expected {expected}.") from None


def accepts(hint: Any, value: Any) -> bool:
    """Whether an option of this type takes the value."""
    try:
        _converted("", hint, value)
    except OptionError:
        return False
    return True


@cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What converts to a type; None where any value will do: YAML has no such type."""
    if hint is Any:
        return None
    try:
        return TypeAdapter(hint, config=_LENIENT)
    except PydanticUserError:
        return None


def _admits(hint: Any, kind: type) -> bool:
    if get_origin(hint) is Literal:
        return any(isinstance(value, kind) for value in get_args(hint))
    return hint in (kind, Any) or any(_admits(argument, kind) for argument in get_args(hint))


def fill(section: str, cls: type, options: Any) -> Any:
    """Make an option dataclass from a mapping, as YAML gives it.

    Args:
        section: key the options stand under, for messages; empty at the top level.
        cls: the dataclass.
        options: option names and values.

    Raises:
        UserError: an unknown option, a value of another type or out of range; the message starts
            with the full key.
    """
    if not isinstance(options, Mapping):
        raise OptionError(section, f"\0 is {shown(options)}; expected a mapping of options.")
    _check_known(section, options, [item.name for item in fields(cls)])
    try:
        return cls(**options)
    except OptionError as error:
        raise error.under(section) from error
    except (UserError, ValueError) as error:  # of the dataclass's own checks: "size is 2; ..."
        raise OptionError(section, f"\0.{error}" if section else str(error)) from error


def _check_known(section: str, options: Mapping[Any, Any], known: list[str]) -> None:
    for key in options:
        if key not in known:
            text = f"Unknown key '\0'.{nearest(str(key), known)} "
            text += f"Known: {', '.join(known) or '(no options)'}."
            raise OptionError(f"{section}.{key}" if section else str(key), text)


def _section(kind: str, value: Any, key: str, also: type | None = None) -> Any:
    """A part's section with every option spelled out and checked; a ready part as it is."""
    registry = REGISTRIES[kind]
    if isinstance(value, registry.interface):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        example = f"{{name: {registry.names()[0]}}}"
        text = f"\0 is {shown(value)}; expected a mapping with a name, e.g. \0: {example}."
        raise OptionError(key, text)
    options = dict(value)
    name = options.pop("name")
    try:
        own = registry.get(name).config_class()  # type: ignore[attr-defined]
    except UserError as error:
        raise OptionError(key, str(error)) from error
    beside = [item.name for item in fields(also)] if also else []
    _check_known(key, options, [*beside, *(item.name for item in fields(own))])
    shares = {option: options.pop(option) for option in beside if option in options}
    more = options_of(fill(key, also, shares)) if also else {}
    return {"name": name, **more, **options_of(fill(key, own, options))}


def _sections(kind: str, value: Any, key: str, also: type) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        example = f"{{{REGISTRIES[kind].names()[0]}: {{}}}}"
        text = f"\0 is {shown(value)}; expected a mapping of {kind} sections, e.g. \0: {example}."
        raise OptionError(key, text)
    found = {}
    for label, section in value.items():
        if section is None:
            continue
        if isinstance(section, Mapping) and "name" not in section:
            section = {"name": label, **section}
        found[str(label)] = _section(kind, section, f"{key}.{label}", also)
    return found


def build(kind: str, section: Any, **options: Any) -> Any:
    """Build the part of a checked section; ``options`` override. A ready part is handed back."""
    if not isinstance(section, Mapping):
        return section
    given = {**section, **options}
    return REGISTRIES[kind].get(given.pop("name"))(**given)


def options_of(config: Any) -> dict[str, Any]:
    """An option dataclass as keyword arguments, without touching nested values."""
    return {item.name: getattr(config, item.name) for item in fields(config)}


def default_of(item: Field[Any]) -> Any:
    """The default of a field of an option dataclass."""
    return item.default if item.default is not MISSING else item.default_factory()  # type: ignore[misc,operator]


def as_yaml(value: Any) -> Any:
    """A value as YAML has it: option dataclasses as mappings, ready parts as their sections."""
    if isinstance(value, PartConfig):
        return as_yaml(options_of(value))
    if isinstance(value, Mapping):
        return {key: as_yaml(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_yaml(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.section() if hasattr(value, "section") else value
