"""Arms: configurations that are compared, and which of their stages the truth stands in for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from framework.errors import UserError

#: What the truth can stand in for: the masks, the matches, or the reference itself, which then is
#: the true picture, so that nothing has to be found or seen from another side.
STAGES = ("masks", "matches", "reference")
NOTHING, CONFIGURED = "nothing", "configured"
#: An arm of the budget -> the stages in which it has the truth.
BUDGET = {
    CONFIGURED: (),
    "true masks": ("masks",),
    "true matches": ("matches",),
    "true masks and matches": ("masks", "matches"),
    "the truth as reference": ("masks", "matches", "reference"),
}


@dataclass(frozen=True)
class Arm:
    """One configuration that draws every target.

    Attributes:
        name: for files and tables.
        overrides: ``key=value`` over the bench's configuration.
        truth: stages in which it has the truth, some of :data:`STAGES`.
    """

    name: str
    overrides: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()


def budget_arms(overrides: Sequence[str] = ()) -> list[Arm]:
    """Nothing injected, then the configuration with more and more of the truth."""
    nothing = Arm(NOTHING, (*overrides, "injector=none", "guidance=none"))
    return [nothing, *(Arm(name, tuple(overrides), truth) for name, truth in BUDGET.items())]


def read_arm(text: str) -> Arm:
    """An arm from the command line, ``NAME key=value ... truth=masks,matches``.

    Raises:
        UserError: it cannot be read, or names a stage that is not there.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--arm '{text}' cannot be read: {error}; close the quotes.") from error
    if not words or "=" in words[0]:
        raise UserError(
            f"--arm is '{text}'; expected a name, then settings, e.g. "
            "--arm 'outputs injector=output_blend truth=masks'."
        )
    truth: tuple[str, ...] = ()
    overrides = []
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--arm '{text}': '{word}' is no setting; expected key=value.")
        if key == "truth":
            truth = tuple(value.split(","))
        else:
            overrides.append(word)
    for stage in truth:
        if stage not in STAGES:
            raise UserError(
                f"--arm '{text}': the truth cannot stand in for '{stage}'; expected some of "
                f"{', '.join(STAGES)}."
            )
    return Arm(words[0], tuple(overrides), truth)


def distinct(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, with one in which nothing is injected first.

    Raises:
        UserError: two have one name.
    """
    found = list(arms)
    if all(arm.name != NOTHING for arm in found):
        found.insert(0, budget_arms()[0])
    names = [arm.name for arm in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"Two arms are called '{twice}'; give each a name of its own.")
    return found
