"""Who takes part in the benchmark: extractors, matchers, and at which sampling steps."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from framework.config.page import Config, load_config
from framework.errors import UserError
from framework.registry import REGISTRIES

logger = logging.getLogger(__name__)

#: What stands for the extractor where a matcher looks at no descriptors.
NO_EXTRACTOR = "(none)"
ALL = "all"


@dataclass
class Entrant:
    """An extractor or a matcher that takes part.

    Attributes:
        label: name and the options that were given.
        section: its complete section of the configuration.
        part: the object.
        memory: bytes its tensors take at most, for all targets of a group; 0 before it was tried.
    """

    label: str
    section: dict[str, Any]
    part: Any
    memory: int = 0


@dataclass
class Field:
    """Who takes part.

    Attributes:
        extractors: in the order given.
        matchers: likewise.
        left_out: combinations that cannot run, (extractor, matcher) -> why.
    """

    extractors: list[Entrant]
    matchers: list[Entrant]
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)

    def matchers_of(self, extractor: Entrant) -> list[tuple[str, Entrant]]:
        """Matchers that run with an extractor, and what the extractor is called beside each.

        A matcher without descriptors runs once, with the first extractor.
        """
        first = extractor is self.extractors[0]
        pairs = []
        for matcher in self.matchers:
            described = matcher.part.needs.features
            label = extractor.label if described else NO_EXTRACTOR
            if (described or first) and (label, matcher.label) not in self.left_out:
                pairs.append((label, matcher))
        return pairs


def entries(config: Config, kind: str, words: Sequence[str]) -> list[Entrant]:
    """Build the parts that a user named.

    Args:
        config: options of a part that the configuration itself names are taken from there.
        kind: ``extractor`` or ``matcher``.
        words: each ``NAME``, ``NAME,NAME``, ``all``, or ``NAME key=value ...``; none: the
            configured one.

    Raises:
        UserError: a name or an option is unknown, a part cannot be built (unless it came with
            ``all``), or one is named twice.
    """
    found: list[Entrant] = []
    own = getattr(config, kind)["name"]
    for word in words or [own]:
        try:
            pieces = shlex.split(word)
        except ValueError as error:
            raise UserError(
                f"--{kind} is {word!r}, in which a quotation mark is not closed; expected "
                f"'NAME key=value ...', e.g. '{own} {_example(kind)}'."
            ) from error
        names = [name for name in pieces[0].split(",") if name] if pieces else []
        if not names:
            raise UserError(f"--{kind} is {word!r}; expected a name, e.g. {own}.")
        if names == [ALL]:
            for name in REGISTRIES[kind].names():
                try:
                    found.append(_entry(config, kind, name, []))
                except UserError as error:
                    logger.warning("%s is left out: %s", name, error)
            continue
        if len(names) > 1 and pieces[1:]:
            raise UserError(f"--{kind} '{word}' gives options to several names; give each alone.")
        found += [_entry(config, kind, name, pieces[1:]) for name in names]
    labels = [entry.label for entry in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--{kind} names '{label}' twice; give each once.")
    return found


def _example(kind: str) -> str:
    return "cycle_threshold=0.3" if kind == "matcher" else "pca=null"


def _entry(config: Config, kind: str, name: str, options: list[str]) -> Entrant:
    for option in options:
        if "=" not in option:
            raise UserError(f"--{kind} '{name}' has the option '{option}'; expected key=value.")
    same = getattr(config, kind)["name"] == name
    changes = [] if same else [f"{kind}={name}"]
    chosen = load_config(config, [*changes, *(f"{kind}.{option}" for option in options)])
    label = " ".join([name, *options])
    return Entrant(label, dict(getattr(chosen, kind)), chosen.part(kind))


def choose_steps(text: str, total: int) -> list[int]:
    """Sampling steps to look at: ``all``, a number of evenly spread ones, or a list ``0,5,10``.

    Raises:
        UserError: no such steps.
    """
    try:
        numbers = [int(word) for word in text.split(",")] if text != ALL else [total]
    except ValueError:
        numbers = []
    if "," not in text and len(numbers) == 1 and numbers[0] >= 1:
        count = min(numbers[0], total)
        if count == 1:
            return [total // 2]
        return sorted({round(k * (total - 1) / (count - 1)) for k in range(count)})
    if "," in text and numbers and all(0 <= number < total for number in numbers):
        return sorted(set(numbers))
    raise UserError(
        f"--steps is '{text}'; expected 'all', a number of steps, or indices from 0 to "
        f"{total - 1} joined by commas."
    )
