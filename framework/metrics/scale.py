"""A scale a reader can judge by: 0 is another object, 1 is another real picture of this one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.concepts.folders import list_concepts, load_concept
from framework.config.page import ConceptConfig
from framework.types import Concept

TOO_CLOSE = 1e-3


@dataclass(frozen=True)
class Scale:
    """Two anchors of a similarity.

    Attributes:
        zero: mean similarity of other concepts' pictures to this concept's references, or None.
        one: mean similarity of this concept's real pictures to each other, or None.
        reason: why the scale cannot be used; None where it can.
    """

    zero: float | None
    one: float | None
    reason: str | None = None

    def place(self, similarity: float) -> float | None:
        """Where a similarity lies: 0 at ``zero``, 1 at ``one``, beyond them too; None without."""
        if self.reason is not None or self.zero is None or self.one is None:
            return None
        return (similarity - self.zero) / (self.one - self.zero)

    def place_or_nan(self, similarity: float) -> float:
        """The same; NaN without a scale."""
        place = self.place(similarity)
        return math.nan if place is None else place

    def to_dict(self) -> dict[str, Any]:
        """For JSON: both anchors and the reason."""
        return {"zero": self.zero, "one": self.one, "reason": self.reason}


def among(own: Tensor) -> float | None:
    """Mean cosine of pictures of one object with each other, no picture with itself.

    Args:
        own: (m, D), L2-normalised.

    Returns:
        In [-1, 1]; None for fewer than two pictures.
    """
    if len(own) < 2:
        return None
    cosines = own @ own.T
    others = ~torch.eye(len(own), dtype=torch.bool)
    return float(cosines[others].mean())


def make_scale(own: Tensor, others: Sequence[Tensor]) -> Scale:
    """Build the scale of one encoder.

    Args:
        own: the concept's references, (m, D), L2-normalised.
        others: the pictures of each other concept, (k, D) each; every concept weighs the same.

    Returns:
        The scale; with a reason where the anchors are missing or do not differ.
    """
    means = [float((vectors @ own.T).mean()) for vectors in others if len(vectors)]
    zero = sum(means) / len(means) if means else None
    one = among(own)
    reasons = []
    if zero is None:
        reasons.append("there is no other concept to compare with")
    if one is None:
        reasons.append("the concept has a single picture, so none to compare it with")
    if zero is not None and one is not None and one - zero < TOO_CLOSE:
        reasons.append("this encoder finds other concepts as similar as the concept itself")
    return Scale(zero, one, "; ".join(reasons) or None)


def other_concepts(library: str, concept: Concept) -> list[Concept]:
    """The concepts of a library that are not this one.

    A concept counts as this one if it shares a picture with it.

    Args:
        library: folder of concept folders, see ``concept.library``; a missing one has none.
        concept: the concept.
    """
    own = {image.tobytes() for image in concept.images}
    found = []
    for name in list_concepts(library):
        other = load_concept(ConceptConfig(name=name, library=library, class_name="thing"))
        if not any(image.tobytes() in own for image in other.images):
            found.append(other)
    return found
