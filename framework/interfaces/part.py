"""What every swappable part has: a registered name, typed options, a one-line summary."""

from __future__ import annotations

import inspect
import re
from abc import ABCMeta
from collections.abc import Mapping
from dataclasses import fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from framework.errors import UserError, unknown_name
from framework.options import PartConfig, accepts, as_yaml, option


class PartMeta(ABCMeta):
    """Checks what a part is built from and keeps it, whatever its constructor looks like."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        """Build a part from its options."""
        try:
            kind = _options_class(cls.__mro__)
        except UserError:  # no configuration can name it, and Python builds it as it likes
            return _made(cls, None, *args, **options)
        parameters = _parameters(cls)
        given = _by_name(cls, parameters, args) | options
        known = _check_known(cls, given, kind)
        config = kind(**given)
        open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        passed = {
            name: getattr(config, name)
            for name in known
            if name in parameters or (open_ended and name in given)
        }
        return _made(cls, config, **passed)


def _made(cls: Any, config: Any, *args: Any, **options: Any) -> Any:
    """A part whose options are known before its constructor begins."""
    part = cls.__new__(cls, *args, **options)
    part._options, part.config = config, config or PartConfig()
    cls.__init__(part, *args, **options)  # type: ignore[misc]
    return part


class Part(metaclass=PartMeta):
    """Base of the seven interfaces.

    A subclass declares its options as a dataclass ``Config`` (see :mod:`framework.options`) and is
    constructed with them as keyword arguments, ``CycleArgmax(cycle_threshold=0.3)``; they are then
    attributes of ``self.config``. Or it writes its own constructor, with a default for every
    argument; its options are then those arguments and the ones that the class it derives from
    has in its ``Config``, with ``**options`` all that class has. Either way ``self.config`` is
    complete before the constructor begins, and :meth:`section` says what the part was built from.
    """

    Config: ClassVar[type] = PartConfig
    name: ClassVar[str] = ""

    config: Any
    _options: Any

    def __init__(self, **options: Any) -> None:
        _check_known(type(self), options, type(self.config))
        if options:  # a subclass's constructor may have settled some of them otherwise
            self.config = replace(self.config, **options)

    @classmethod
    def config_class(cls) -> type:
        """The option dataclass: ``Config``, with the arguments of the part's own constructor.

        Raises:
            UserError: the constructor has an argument without a default, or one whose default
                cannot stand in a YAML file.
        """
        return _options_class(cls.__mro__)

    @classmethod
    def summary(cls) -> str:
        """First line of the class's docstring."""
        lines = (inspect.getdoc(cls) or "").strip().splitlines()
        return lines[0] if lines else ""

    def section(self) -> dict[str, Any]:
        """The complete section of a configuration that an equal part is built from.

        Raises:
            UserError: no configuration can name it, see :meth:`config_class`.
        """
        if self._options is None:
            self.config_class()
        cls = type(self)
        name = vars(cls).get("name") or f"{cls.__module__}:{cls.__qualname__}"
        return {"name": name, **as_yaml(self._options)}


def _by_name(
    cls: type, parameters: Mapping[str, inspect.Parameter], args: tuple[Any, ...]
) -> dict[str, Any]:
    """Arguments given by position, by their names."""
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, each in parameters.items() if each.kind in by_place]
    if len(args) > len(names):
        raise UserError(
            f"{cls.__name__} was given {len(args)} options without a name, and takes "
            f"{len(names)}; write name=value."
        )
    return dict(zip(names, args, strict=False))


def _check_known(cls: type, options: Mapping[str, Any], kind: type) -> list[str]:
    """Refuse options that are not there; returns the names of those that are."""
    known = [item.name for item in fields(kind)]
    for key in options:
        if key not in known:
            raise unknown_name(f"option of {cls.__name__}", key, known)
    return known


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a class's constructor by name, without ``self``."""
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


@cache
def _options_class(order: tuple[type, ...]) -> type:
    """The options of the first class in a resolution order; see :meth:`Part.config_class`."""
    cls, rest = order[0], order[1:]
    if cls is Part or cls is object:
        return PartConfig
    inherited = _options_class(rest)
    if "__init__" not in vars(cls):
        return vars(cls).get("Config", inherited)
    parameters = _parameters(cls)
    passes_on = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    owner = next((each for each in order if "Config" in vars(each)), Part)
    base = inherited if passes_on and owner is not cls else vars(owner)["Config"]
    below = {item.name: item for item in fields(base)}
    hints, helps = _hints(cls), _documented(cls)
    columns: list[Any] = []
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if owner is cls and name in below:
            continue
        kind = _checked_type(cls, parameter, hints.get(name, Any))
        known = {} if name not in below else dict(below[name].metadata)
        known = {key: known[key] for key in ("low", "high", "choices", "part", "several") if known}
        text = helps.get(name) or (below[name].metadata.get("help", "") if known else "")
        columns.append((name, kind, option(parameter.default, text, **known)))
    if not columns:
        return base
    return make_dataclass(f"{cls.__name__}Config", columns, bases=(base,))


def _checked_type(cls: type, parameter: inspect.Parameter, hint: Any) -> Any:
    """The type of an argument as an option; Any where its own default is of another."""
    name, default = parameter.name, parameter.default
    if default is parameter.empty:
        raise UserError(
            f"{cls.__name__}.__init__ needs a default for '{name}': a part is built from its "
            "configuration, in which every option may be left out."
        )
    if name == "name":
        raise UserError(
            f"{cls.__name__}.__init__ has an argument 'name', which in a configuration is the "
            "part's own name; call it something else."
        )
    if not _storable(default):
        raise UserError(
            f"{cls.__name__}.__init__: the default of '{name}', {default!r}, cannot stand in a "
            "YAML file; use a number, text, a list, a mapping or None."
        )
    if default is None and not accepts(hint, None):
        hint = hint | None
    return hint if accepts(hint, default) else Any


def _storable(value: Any) -> bool:
    """Whether a value can stand in a YAML file."""
    if isinstance(value, Mapping):
        return all(_storable(inner) for pair in value.items() for inner in pair)
    if isinstance(value, list | tuple):
        return all(map(_storable, value))
    return value is None or isinstance(value, bool | int | float | str | Path)


def _hints(cls: type) -> dict[str, Any]:
    """Types of a constructor's arguments; none where they name what cannot be resolved."""
    try:
        return get_type_hints(vars(cls)["__init__"])
    except NameError:
        return {}


def _documented(cls: type) -> dict[str, str]:
    """First line for each argument of the ``Args:`` section of the class or its constructor."""
    found: dict[str, str] = {}
    for text in (inspect.getdoc(cls), inspect.getdoc(vars(cls)["__init__"])):
        section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text or "", re.MULTILINE)
        for name, line in re.findall(r"^ +(\w+):[ \t]*(.+)$", section[1] if section else "", re.M):
            found.setdefault(name, line)
    return found
