"""The judge of one concept: all similarities of its pictures, and their scales."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from framework.metrics.loading import Encoders
from framework.metrics.scale import Scale, make_scale
from framework.metrics.similarity import (
    ClipImageSimilarity,
    ClipTextSimilarity,
    IdentitySimilarity,
)
from framework.types import Concept

SCORES = ("identity", "clip_image", "clip_text")
"""The similarities, in the order of tables."""

TITLES = {
    "identity": "identity",
    "clip_image": "CLIP image",
    "clip_text": "CLIP text",
}


class Judge:
    """Scores pictures of one concept.

    Args:
        encoders: who looks.
        concept: whose pictures they are.
        text: ``plain`` or ``template``; see :class:`ClipTextSimilarity`.
    """

    def __init__(self, encoders: Encoders, concept: Concept, text: str = "plain") -> None:
        self.identity = IdentitySimilarity(encoders.identity, concept.images)
        self.clip_image = ClipImageSimilarity(encoders.clip_image, concept.images)
        self.clip_text = ClipTextSimilarity(encoders.clip_image, encoders.clip_text, concept, text)

    def score(
        self, images: Sequence[Image.Image], prompts: Sequence[str]
    ) -> dict[str, list[float]]:
        """The similarities of each picture.

        Args:
            images: the pictures.
            prompts: the prompt of each, with ``{}`` or the placeholder.

        Returns:
            One list for each of :data:`SCORES`, one number in [-1, 1] for each picture.
        """
        return {
            "identity": self.identity.scores(images).tolist(),
            "clip_image": self.clip_image.scores(images).tolist(),
            "clip_text": self.clip_text.scores(images, prompts).tolist(),
        }

    def scales(self, others: Sequence[Concept]) -> dict[str, Scale]:
        """The scales of the two image similarities, from other concepts' pictures."""
        return {
            name: make_scale(
                metric.references, [metric.encoder(list(other.images)) for other in others]
            )
            for name, metric in (("identity", self.identity), ("clip_image", self.clip_image))
        }
