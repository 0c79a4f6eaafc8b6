"""A check, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from framework.errors import UserError, first_line


class Broken(Exception):
    """A part does not keep its contract; the text says what was seen and what was expected."""


class NotAsked(Exception):
    """A check does not concern a part; the text says why."""


#: Takes a part; its docstring's first line says what it checks.
Check = Callable[[Any], None]


@dataclass(frozen=True)
class Verdict:
    """What came of one check.

    Attributes:
        promise: what a part keeps, in a sentence.
        outcome: kept, broken, or not asked of this part.
        text: what is wrong, or why it is not asked; empty where the promise is kept.
    """

    promise: str
    outcome: Literal["kept", "broken", "not asked"]
    text: str = ""


def promise_of(check: Check) -> str:
    """What a check checks, in a sentence."""
    return (check.__doc__ or check.__name__).strip().splitlines()[0]


def judge(check: Check, part: Any) -> Verdict:
    """Run one check; an error of the part itself counts as broken."""
    promise = promise_of(check)
    try:
        check(part)
    except NotAsked as why:
        return Verdict(promise, "not asked", str(why))
    except (Broken, UserError) as why:
        return Verdict(promise, "broken", str(why))
    except Exception as error:  # whatever the part raises is the part's
        return Verdict(promise, "broken", f"{type(error).__name__}: {first_line(error)}.")
    return Verdict(promise, "kept")


def expect(condition: Any, text: str) -> None:
    """Refuse the part unless the condition, a bool or a tensor of one, is true.

    Raises:
        Broken: with the text.
    """
    if not bool(condition):
        raise Broken(text)


def expect_close(what: str, got: Tensor, wanted: Tensor, tolerance: float = 0.0) -> None:
    """Refuse two tensors of different shapes, or that differ by more than a tolerance.

    Args:
        what: names them in a sentence, e.g. "the flow of a pair alone and in a batch".
        got: any shape.
        wanted: the same shape.
        tolerance: largest permitted absolute difference; 0: the same bits.

    Raises:
        Broken: with the largest difference.
    """
    expect(got.shape == wanted.shape, f"{what} have the shapes {got.shape} and {wanted.shape}.")
    if torch.equal(got, wanted) or not got.numel():
        return
    difference = float((got.double() - wanted.double()).abs().max())
    permitted = f"at most {tolerance:g}" if tolerance else "the same bits"
    expect(difference <= tolerance, f"{what} differ by {difference:.3g}; expected {permitted}.")
