"""Typed options of a part: a dataclass beside the class, every field with one line of help.

    @dataclass
    class CycleArgmaxConfig(PartConfig):
        cycle_threshold: float = option(0.4, "lambda_c of Eq. 8", low=0.0, high=1.0)

A class without such a dataclass gets one derived from its constructor's signature.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from numbers import Real
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from framework.errors import UserError, check_range, nearest
from framework.options.nested import checked, is_nested
from framework.options.typed import shown


def option(
    default: Any,
    help: str,  # noqa: A002 - the word every command-line user knows
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    part: str | None = None,
    parts: str | None = None,
    also: type | None = None,
) -> Any:
    """A dataclass field with help, and the values it permits.

    Args:
        default: the value where none is given.
        help: one line for ``dreammatcher list``.
        low: smallest permitted number (of every element, where the option is a list).
        high: largest permitted number.
        choices: the permitted values.
        part: the option holds the section of another part of this kind, e.g. ``"matcher"``; see
            :mod:`framework.options.nested`.
        parts: it holds several of them, a mapping of label to section.
        also: option dataclass of what may stand in each of those beside the part's own options.
    """
    metadata: dict[str, Any] = {"help": help, "low": low, "high": high, "choices": choices}
    metadata |= {"part": part, "parts": parts, "also": also}
    if type(default).__hash__ is None:  # lists, mappings, sets, dataclasses
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class PartConfig:
    """Base of every option dataclass: refuses values out of range on construction."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if is_nested(item.metadata):
                setattr(self, item.name, checked(item.metadata, value, item.name))
                continue
            low, high = item.metadata.get("low"), item.metadata.get("high")
            many = value if isinstance(value, list | tuple) else [value]
            for element in many:
                _check_number(item.name, element, low, high)
            choices = item.metadata.get("choices")
            if choices is not None and value not in choices:
                raise UserError(
                    f"{item.name} is {value!r}; expected one of "
                    f"{', '.join(repr(choice) for choice in choices)}."
                    f"{nearest(str(value), map(str, choices))}"
                )


def _check_number(name: str, value: Any, low: float | None, high: float | None) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} is {value}; expected a finite number.")
    if value is None or (low is None and high is None):
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"{name} is {value!r}; expected a number.")
    check_range(name, value, low, high)


def config_class(cls: type) -> type:
    """The option dataclass of a part: its ``Config``, or one read off its constructor.

    A constructor that takes ``**options`` passes them on, so its options are its own parameters
    and those of the class it derives from.

    Raises:
        UserError: the constructor has a parameter without a default (a part must be constructible
            from its configuration alone), or leaves out options every part of its kind has.
    """
    return _from_order(cls.__mro__)


def _from_order(order: tuple[type, ...]) -> type:
    """The options of the first class in a resolution order; see :func:`config_class`."""
    cls, rest = order[0], order[1:]
    declared = vars(cls).get("Config")
    if declared is not None:
        return declared
    if cls is object:
        return PartConfig
    inherited = _from_order(rest)
    if "__init__" not in vars(cls):
        return inherited
    parameters = list(inspect.signature(_constructor(cls)).parameters.items())[1:]
    hints, helps = _hints(cls), _documented(cls)
    columns: list[Any] = []
    passes_on = False
    for name, parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            passes_on = True
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            raise UserError(
                f"{cls.__name__}.__init__ needs a default for '{name}': a part is built from its "
                "configuration, in which every option may be left out."
            )
        kind = _supported(cls, name, hints.get(name, Any), parameter.default)
        columns.append((name, kind, option(parameter.default, helps.get(name, ""))))
    owner = next((each for each in rest if "Config" in vars(each)), None)
    if not passes_on and inspect.isabstract(owner):
        missing = {item.name for item in fields(inherited)} - {column[0] for column in columns}
        if missing:
            raise UserError(
                f"{cls.__name__}.__init__ leaves out {', '.join(sorted(missing))}; take **options "
                "and pass them to super().__init__(**options)."
            )
    bases = (inherited if passes_on else PartConfig,)
    return make_dataclass(f"{cls.__name__}Config", columns, bases=bases)


def _constructor(cls: type) -> Callable[..., None]:
    return vars(cls)["__init__"]


def _hints(cls: type) -> dict[str, Any]:
    """Types of a constructor's parameters; none where they name what cannot be resolved."""
    try:
        return get_type_hints(_constructor(cls))
    except NameError:
        return {}


def _supported(cls: type, name: str, kind: Any, default: Any) -> Any:
    """The type if values of it can stand in a YAML file, else Any."""
    for each in (kind, Any):
        try:
            OmegaConf.structured(make_dataclass("_Probe", [("value", each, option(default, ""))]))
            return each
        except (OmegaConfBaseException, TypeError, ValueError):
            continue
    raise UserError(
        f"{cls.__name__}.__init__: the default of '{name}', {default!r}, cannot stand in a YAML "
        "file; use a number, text, a list, a mapping or None."
    )


def _documented(cls: type) -> dict[str, str]:
    """First line for each argument of the ``Args:`` section of the class or its constructor."""
    found: dict[str, str] = {}
    for text in (inspect.getdoc(cls), inspect.getdoc(_constructor(cls))):
        section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text or "", re.MULTILINE)
        for name, line in re.findall(r"^ +(\w+):[ \t]*(.+)$", section[1] if section else "", re.M):
            found.setdefault(name, line)
    return found


def describe_options(cls: type) -> list[tuple[str, str, str, str]]:
    """Rows (name, type, default, help) of a part's options, for ``dreammatcher list``."""
    rows = []
    for item in fields(config_class(cls)):
        kind = item.type if isinstance(item.type, str) else inspect.formatannotation(item.type)
        if is_nested(item.metadata):
            kind = item.metadata["part"] or f"{item.metadata['parts']}s"
        default = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[misc,operator]
        text = item.metadata.get("help", "")
        low, high = item.metadata.get("low"), item.metadata.get("high")
        if low is not None and high is not None:
            text = f"{text} ({low:g} to {high:g})".strip()
        elif low is not None or high is not None:
            bound = f"at least {low:g}" if low is not None else f"at most {high:g}"
            text = f"{text} ({bound})".strip()
        if item.metadata.get("choices"):
            text = f"{text} (one of {', '.join(map(str, item.metadata['choices']))})".strip()
        rows.append((item.name, str(kind), shown(default), text))
    return rows


def options_of(config: Any) -> dict[str, Any]:
    """A dataclass instance as keyword arguments, without touching nested values."""
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
