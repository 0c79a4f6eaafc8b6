"""From scores of cells to what is reported: means, intervals, paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framework.metrics.panel import LOWER, NEUTRAL, SCORES
from framework.metrics.statistics import Estimate, mean_interval, paired_difference

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ScoreEntry:
    """One score of one variant.

    Attributes:
        mean: with its interval, over concepts.
        difference: to the baseline, paired by cell; None for the baseline itself, or where no cell
            has a partner.
        best: whether no other variant's mean is better.
        clear: whether the difference's interval leaves out 0; None without one.
    """

    mean: Estimate
    difference: Estimate | None
    best: bool = False
    clear: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean": self.mean.to_dict(),
            "difference": None if self.difference is None else self.difference.to_dict(),
            "best": self.best,
            "clear": self.clear,
        }


@dataclass(frozen=True)
class Results:
    """The scores of a run under one protocol.

    Attributes:
        protocol: its name.
        baseline: the variant the others are compared with.
        variants: in the order of tables.
        scores: those that at least one cell has.
        entries: variant -> score -> entry.
        settings: variant -> what it varies, for plots of a swept option.
        hardware: what drew the pictures and what scored them, in words; empty where not known.
    """

    protocol: str
    baseline: str
    variants: tuple[str, ...]
    scores: tuple[str, ...]
    entries: Mapping[str, Mapping[str, ScoreEntry]]
    settings: Mapping[str, Mapping[str, Any]]
    hardware: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "protocol": self.protocol,
            "baseline": self.baseline,
            "hardware": self.hardware,
            "variants": {
                variant: {name: entry.to_dict() for name, entry in entries.items()}
                for variant, entries in self.entries.items()
            },
        }


def compare_variants(
    rows: Sequence[Row],
    variants: Sequence[str],
    baseline: str,
    protocol: str,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Results:
    """Means and paired differences of every variant.

    Args:
        rows: one for each cell, with ``variant``, ``concept``, ``prompt``, ``seed`` and scores.
        variants: in the order of tables.
        baseline: one of them.
        protocol: name of the scoring protocol.
        settings: variant -> what it varies.
    """
    scores = [name for name in SCORES if any(_number(row.get(name)) is not None for row in rows)]
    by_variant = {v: [row for row in rows if row["variant"] == v] for v in variants}
    means = {
        variant: {
            name: estimate
            for name in scores
            if (estimate := _mean(by_variant[variant], name)) is not None
        }
        for variant in variants
    }
    entries: dict[str, dict[str, ScoreEntry]] = {}
    for variant in variants:
        entries[variant] = {}
        for name, mean in means[variant].items():
            difference = (
                None
                if variant == baseline
                else _difference(by_variant[variant], by_variant[baseline], name)
            )
            clear = None
            if difference is not None and difference.low is not None:
                clear = difference.low > 0 or (difference.high or 0) < 0
            entries[variant][name] = ScoreEntry(
                mean, difference, _best(name, variant, means), clear
            )
    return Results(protocol, baseline, tuple(variants), tuple(scores), entries, settings or {})


def _best(name: str, variant: str, means: Mapping[str, Mapping[str, Estimate]]) -> bool:
    if name in NEUTRAL:
        return False
    sign = -1 if name in LOWER else 1
    values = {v: sign * found[name].mean for v, found in means.items() if name in found}
    return len(values) > 1 and values[variant] >= max(values.values()) - 5e-7


def _mean(rows: Sequence[Row], name: str) -> Estimate | None:
    told = [(row, value) for row in rows if (value := _number(row.get(name))) is not None]
    if not told:
        return None
    return mean_interval([value for _, value in told], [row["concept"] for row, _ in told])


def _difference(rows: Sequence[Row], baseline: Sequence[Row], name: str) -> Estimate | None:
    partners = {pair(row): _number(row.get(name)) for row in baseline}
    told = []
    for row in rows:
        mine, other = _number(row.get(name)), partners.get(pair(row))
        if mine is not None and other is not None:
            told.append((mine, other, row["concept"]))
    if not told:
        return None
    mine_, others, concepts = zip(*told, strict=True)
    return paired_difference(mine_, others, concepts)


def pair(row: Row) -> tuple[str, str, int]:
    """What cells of different variants share if they started from the same noise."""
    return str(row["concept"]), str(row["prompt"]), int(row["seed"])


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    return None if math.isnan(number) else number
