"""Axes of a plan -> variants: products, zips, named variants, exclusions.

An axis is one entry of ``vary`` (or of ``variants``, which is an axis of named variants):

* ``matcher.cycle_threshold: [0.2, 0.4]``: one value after the other;
* ``"injector.start_step, guidance.start_step": [[2, 4], [4, 6]]``: several keys together (a zip);
* ``arm: {plain: {injector: none}, full: {guidance: semantic_matching}}``: named variants; the key
  is a label and no key of the configuration.

The axes of a plan are multiplied with each other, the first varying slowest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from framework.config.layers import Layer, merge
from framework.errors import UserError, shown, unknown_name
from framework.registry import REGISTRIES
from framework.runs.machine import free_memory

#: The most pictures of a plan, and the bytes that one takes in memory.
MOST, CELL = 1_000_000, 4096


@dataclass(frozen=True)
class Choice:
    """One place on one axis.

    Attributes:
        axis: the axis: its key in the plan.
        label: what it is called in a table.
        values: dotted configuration keys -> values.
    """

    axis: str
    label: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One combination of choices, not yet resolved.

    Attributes:
        name: unique, for tables and files.
        choices: one for each axis.
    """

    name: str
    choices: tuple[Choice, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Dotted configuration keys -> values; a later axis wins."""
        return {key: value for choice in self.choices for key, value in choice.values.items()}

    @property
    def labels(self) -> dict[str, Any]:
        """What exclusions may speak of: configuration keys, and labels of named variants."""
        return {choice.axis: choice.label for choice in self.choices} | self.values

    def layer(self) -> Layer:
        """The variant as a layer of configuration."""
        return nested(self.values)


def make_variants(axes: Mapping[str, Any], exclude: Any = None) -> list[Variant]:
    """Multiply the axes, leave out what is excluded.

    Args:
        axes: axis -> its values; see the module.
        exclude: list of mappings; a variant is left out if every entry of one of them holds.

    Raises:
        UserError: an axis is empty or malformed, an exclusion names no axis, everything is
            excluded, or two variants have one name.
    """
    columns = [choices_of(axis, values) for axis, values in axes.items()]
    check_count(math.prod(map(len, columns)))
    variants = [
        Variant(_name(choices) or "default", choices)
        for choices in (tuple(c) for c in product(*columns))
    ]
    kept = [each for each in variants if not any(_fits(rule, each) for rule in _rules(exclude))]
    for rule in _rules(exclude):
        known = {key for each in variants for key in each.labels}
        for key in rule:
            if key not in known:
                raise unknown_name("axis in exclude", key, known)
    if not kept:
        raise UserError(
            f"The plan is empty: 'exclude' leaves out all of its {len(variants)} variant(s). "
            "Remove one of the exclusions."
        )
    names: set[str] = set()
    for each in kept:
        if each.name in names:
            raise UserError(f"Two variants are called '{each.name}'; give each its own name.")
        names.add(each.name)
    return kept


def check_count(cells: int) -> None:
    """Refuse a plan of more pictures than a run folder, or the memory, can list.

    Raises:
        UserError: with the number.
    """
    most = min(MOST, free_memory() // CELL)
    if cells > most:
        raise UserError(
            f"The plan has at least {cells:,} pictures; at most {most:,} go into one run here. "
            "Give fewer values, concepts, prompts or seeds, or several plans."
        )


def choices_of(axis: str, values: Any) -> list[Choice]:
    """The places on one axis.

    Raises:
        UserError: there is none, one is given twice, or a value has not the form it should have.
    """
    if isinstance(values, Mapping):
        choices = [
            Choice(axis, str(name), _flat_variant(f"{axis}.{name}", entry))
            for name, entry in values.items()
        ]
    elif isinstance(values, Sequence) and not isinstance(values, str):
        if any(isinstance(v, Mapping) and "name" in v and len(v) > 1 for v in values) and (
            "." not in axis and axis not in REGISTRIES
        ):
            choices = [_listed(axis, entry) for entry in values]
        else:
            choices = [_valued(axis, value) for value in values]
    else:
        raise UserError(
            f"vary.{axis} is {shown(values)}; expected a list of values, or a mapping of named "
            "variants."
        )
    if not choices:
        raise UserError(f"The plan is empty: the axis '{axis}' has no value; give at least one.")
    for label, times in Counter(choice.label for choice in choices).items():
        if times > 1:
            raise UserError(f"The axis '{axis}' has '{label}' twice; give each value once.")
    return choices


def nested(values: Mapping[str, Any]) -> Layer:
    """Dotted keys as a nested mapping; names of parts first, as they drop the options before."""
    tree: Layer = {}
    for key in sorted(values, key=lambda key: not key.endswith(".name")):
        head, _, rest = key.partition(".")
        tree = merge(tree, {head: {rest: values[key]} if rest else values[key]}, REGISTRIES)
    return tree


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections written as mappings, or parts written as names, as dotted keys (one level)."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in REGISTRIES and isinstance(value, str):
            found[f"{key}.name"] = value
        elif isinstance(value, Mapping) and "." not in key:
            found |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            found[str(key)] = value
    return found


def _listed(axis: str, entry: Any) -> Choice:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise UserError(f"{axis} has {shown(entry)}; expected mappings that each have a 'name'.")
    rest = {key: value for key, value in entry.items() if key != "name"}
    return Choice(axis, entry["name"], _flat_variant(f"{axis}.{entry['name']}", rest))


def _valued(axis: str, value: Any) -> Choice:
    keys = [key.strip() for key in axis.split(",")]
    if len(keys) == 1:
        return Choice(axis, _label(keys[0], value), flat({keys[0]: value}))
    if not isinstance(value, list) or len(value) != len(keys):
        raise UserError(
            f"The axis '{axis}' has {shown(value)}; expected lists of {len(keys)} values, one for "
            "each of its keys."
        )
    label = ", ".join(_label(key, part) for key, part in zip(keys, value, strict=True))
    return Choice(axis, label, flat(dict(zip(keys, value, strict=True))))


def _flat_variant(where: str, entry: Any) -> dict[str, Any]:
    """A named variant's overrides: nested, dotted, or both."""
    if entry is None:
        return {}
    if not isinstance(entry, Mapping):
        raise UserError(
            f"The variant '{where}' is {shown(entry)}; expected a mapping of configuration keys "
            "(empty for the plan's own configuration)."
        )
    return flat({str(key): value for key, value in entry.items()})


def _label(key: str, value: Any) -> str:
    last = key.rpartition(".")[2]
    if key in REGISTRIES:
        if isinstance(value, Mapping):
            rest = [f"{k}={_brief(v)}" for k, v in value.items() if k != "name"]
            return " ".join([str(value.get("name", key)), *rest])
        return _part_label(key, value)
    if last == "name":
        return _part_label(key.rpartition(".")[0], value)
    return f"{last}={_brief(value)}"


def _part_label(kind: str, value: Any) -> str:
    return f"{kind}=none" if value in ("none", None) else str(value)


def _brief(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(_brief(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def _name(choices: tuple[Choice, ...]) -> str:
    return ", ".join(choice.label for choice in choices)


def _rules(exclude: Any) -> Iterator[Mapping[str, Any]]:
    entries = exclude or []
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) and e for e in entries):
        raise UserError(
            f"exclude is {shown(exclude)}; expected a list of mappings, e.g. "
            "[{injector.name: none, matcher.cycle_threshold: 0.2}]."
        )
    yield from entries


def _fits(rule: Mapping[str, Any], variant: Variant) -> bool:
    labels = variant.labels
    return all(
        key in labels and labels[key] in (value if isinstance(value, list) else [value])
        for key, value in rule.items()
    )
