"""From similarities of single pictures to what is reported: means, differences, scaled values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from framework.metrics.scale import Scale

Scores = Mapping[str, Sequence[float]]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return sum(values) / len(values)


def summarise(
    scores: Mapping[str, Scores], scales: Mapping[str, Scale], baseline: str, treated: str
) -> dict[str, Any]:
    """The report of one concept.

    Args:
        scores: arm -> similarity -> one number for each picture, pictures in the same order.
        scales: similarity -> its scale; similarities without one are left out of ``scaled``.
        baseline: name of the arm to compare with.
        treated: name of the arm compared.

    Returns:
        For JSON: each arm's means, with their places on the scale under ``scaled`` (None where the
        scale cannot be used) and every picture's number under ``images``; under ``difference``
        treated minus baseline; under ``scale`` the anchors, or why there are none.
    """
    report: dict[str, Any] = {}
    for arm, values in scores.items():
        means = {name: mean(numbers) for name, numbers in values.items()}
        report[arm] = {
            **means,
            "scaled": {name: scale.place(means[name]) for name, scale in scales.items()},
            "images": {name: list(numbers) for name, numbers in values.items()},
        }
    old, new = report[baseline], report[treated]
    report["difference"] = {name: new[name] - old[name] for name in scores[baseline]}
    report["difference"]["scaled"] = {
        name: None if new["scaled"][name] is None else new["scaled"][name] - old["scaled"][name]
        for name in scales
    }
    report["scale"] = {name: scale.to_dict() for name, scale in scales.items()}
    return report
