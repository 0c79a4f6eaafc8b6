"""Which checks there are of each kind of part."""

from __future__ import annotations

from framework.contracts import attention, guidance, matchers, parts
from framework.contracts.base import Check
from framework.contracts.sampled import Stage, on_stage

#: Kind -> checks of the part alone, beside those of every part.
ALONE: dict[str, tuple[Check, ...]] = {
    "matcher": matchers.CHECKS,
    "injector": attention.CHECKS,
    "guidance": guidance.CHECKS,
}


def checks_of(kind: str, stage: Stage | None = None) -> list[Check]:
    """The checks of a kind of part.

    Args:
        kind: e.g. ``matcher``.
        stage: makes a sampler around a part; None leaves out what needs one.
    """
    sampled = on_stage(stage, kind) if stage is not None else []
    return [*parts.CHECKS, *ALONE.get(kind, ()), *sampled]
