"""Any matcher, its confidence turned into the probability that the match is right."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.config.resources import resolve_path
from framework.errors import UserError
from framework.interfaces import MATCHERS
from framework.options import PartConfig, option
from framework.types import Correspondence, Features, Masks, Views
from matchers.wrapper import Wrapper

#: Measured on the embedded world; see ``matchers/README.md``.
SHIPPED = "package:matchers/weights/calibration.json"


@dataclass
class CalibratedConfig(PartConfig):
    """Options of :class:`Calibrated`."""

    matcher: Any = option(
        {"name": "cycle_argmax"},
        "the matcher whose confidence is calibrated, with its options",
        part="matcher",
    )
    curve: Any = option(
        SHIPPED,
        "pairs [confidence, probability], both rising, or a calibration.json of match-bench; "
        "default: measured on the embedded world",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.curve, str):
            check_curve(self.curve, "curve")


@MATCHERS.register("calibrated")
class Calibrated(Wrapper):
    """Any matcher, its confidence calibrated: the probability that a match is right.

    Right means that the point is visible in the reference and that the match lies within a tenth of
    the object's box of it. The curve from the inner matcher's confidence to that probability was
    measured by ``dreammatcher match-bench``, over points of objects, of pictures like those it
    measured; it rises (never falls), so the order of the matches stays, and the flow is untouched.
    An injector's ``confidence_threshold`` is then a probability, too. Cost: the inner matcher's.
    """

    Config = CalibratedConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Sure of nothing, where the measured matches were seldom right.
        self.promises = replace(self.promises, invariant=False)
        curve = self.config.curve
        if isinstance(curve, str):
            curve = read_curve(resolve_path(curve), self.inner.section())
        self.curve = [(float(x), float(y)) for x, y in curve]

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`framework.interfaces.BaseMatcher.correspond`."""
        matches = self.inner(features, masks, views)
        return Correspondence(matches.flow, along(self.curve, matches.confidence))


def along(curve: list[tuple[float, float]], values: Tensor) -> Tensor:
    """A curve at values of any shape: linear between its pairs, constant beyond."""
    x, y = (values.new_tensor(part) for part in zip(*curve, strict=True))
    if len(curve) == 1:
        return values * 0 + y
    right = torch.searchsorted(x, values.detach().contiguous()).clamp(1, len(x) - 1)
    share = ((values - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return (y[right - 1] + share * (y[right] - y[right - 1])).clamp(0, 1)


def check_curve(curve: Any, what: str) -> None:
    """Refuse what is no curve.

    Raises:
        UserError: with what was expected.
    """
    try:
        pairs = [(float(x), float(y)) for x, y in curve]
    except (TypeError, ValueError):
        pairs = []
    rising = all(a < c and b <= d for (a, b), (c, d) in zip(pairs, pairs[1:], strict=False))
    if not pairs or not rising or not all(0 <= v <= 1 for pair in pairs for v in pair):
        raise UserError(
            f"{what} is {curve!r}; expected pairs [confidence, probability] between 0 and 1, the "
            "first rising, the second not falling, e.g. [[0, 0.1], [1, 0.6]], or the "
            "calibration.json that 'dreammatcher match-bench' writes."
        )


def read_curve(path: Path, section: dict[str, Any]) -> list[list[float]]:
    """The curve of a matcher in a file of curves; the first, if it was measured more than once.

    Args:
        path: ``calibration.json`` of a benchmark.
        section: the matcher's complete section of a configuration.

    Raises:
        UserError: the file is missing or damaged, or has no curve for this matcher.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [(dict(entry["matcher"]), entry["curve"]) for entry in entries]
    except FileNotFoundError as error:
        raise UserError(
            f"matcher.curve '{path}' does not exist; give a calibration.json that 'dreammatcher "
            "match-bench' wrote, or pairs [[confidence, probability], ...]."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"matcher.curve '{path}' cannot be read: {error}.") from error
    for known, curve in found:
        if known == section:
            check_curve(curve, f"matcher.curve '{path}': the curve of '{section.get('name')}'")
            return list(curve)
    own = [known for known, _ in found if known.get("name") == section.get("name")]
    told = ", ".join(dict.fromkeys(str(known.get("name")) for known, _ in found))
    why = (
        f"only one for {section.get('name')} with the options "
        f"{ ({key: value for key, value in own[0].items() if value != section.get(key)}) }"
        if own
        else f"it has {told or 'none at all'}"
    )
    raise UserError(
        f"matcher.curve '{path}' has no curve for the matcher {section}: {why}. Measure one with "
        "'dreammatcher match-bench' and this matcher; its calibration.json is a matcher.curve."
    )
