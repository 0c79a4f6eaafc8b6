"""The panel of one concept: every score of every picture, each picture encoded once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from PIL import Image
from torch import Tensor

from framework.metrics.copy_paste import CopyPaste
from framework.metrics.diversity import Distance, Diversity, spread
from framework.metrics.encoders import ImagesToVectors
from framework.metrics.loading import Encoders
from framework.metrics.scale import Scale, make_scale
from framework.metrics.similarity import (
    ClipImageSimilarity,
    ClipTextSimilarity,
    IdentitySimilarity,
)
from framework.metrics.subject import cut_out, subject_mask
from framework.types import Concept

#: Name -> title, in the order of tables.
SCORES: dict[str, str] = {
    "identity": "I_DINO",
    "clip_image": "I_CLIP",
    "clip_text": "T_CLIP",
    "identity_scaled": "I_DINO, on the scale",
    "clip_image_scaled": "I_CLIP, on the scale",
    "identity_masked": "I_DINO, subject",
    "clip_image_masked": "I_CLIP, subject",
    "copy_paste": "copy-paste",
    "diversity": "diversity",
    "lpips": "LPIPS among seeds",
}
#: The three similarities that two arms are told by, and what they are called there.
SIMILARITIES = {
    "identity": "identity",
    "clip_image": "CLIP image",
    "clip_text": "CLIP text",
}
#: Scores of which less is better; no best is marked where neither is.
LOWER = ("copy_paste",)
#: Scores without a better end: they describe.
NEUTRAL = ("diversity", "lpips")


class Remembered:
    """An encoder that encodes a picture object once.

    Args:
        encoder: pictures -> vectors.
    """

    def __init__(self, encoder: ImagesToVectors) -> None:
        self.encoder = encoder
        self._known: dict[int, tuple[Image.Image, Tensor]] = {}

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures -> (n, D)."""
        new = [image for image in images if id(image) not in self._known]
        if new:
            for image, vector in zip(new, self.encoder(new), strict=True):
                self._known[id(image)] = image, vector
        vectors = [self._known[id(image)][1] for image in images]
        return torch.stack(vectors) if vectors else torch.empty(0, 0)

    def forget(self) -> None:
        """Drop what is remembered."""
        self._known.clear()


class Panel:
    """Scores pictures of one concept in every way.

    Args:
        encoders: who looks.
        concept: whose pictures they are.
        text: ``plain`` or ``template``.
        masks: masks of the concept's pictures, (h, w) each; None estimates them.
        lpips: distance of two pictures, or None.
    """

    def __init__(
        self,
        encoders: Encoders,
        concept: Concept,
        text: str = "plain",
        masks: Sequence[Tensor] | None = None,
        lpips: Distance | None = None,
    ) -> None:
        self.identity_encoder = Remembered(encoders.identity)
        self.clip_encoder = Remembered(encoders.clip_image)
        self.lpips = lpips
        references = concept.images
        own = masks or [subject_mask(image) for image in references]
        alone = [cut_out(image, mask) for image, mask in zip(references, own, strict=True)]
        self.identity = IdentitySimilarity(self.identity_encoder, references)
        self.clip_image = ClipImageSimilarity(self.clip_encoder, references)
        self.clip_text = ClipTextSimilarity(self.clip_encoder, encoders.clip_text, concept, text)
        self.identity_masked = IdentitySimilarity(encoders.identity, alone)
        self.clip_image_masked = ClipImageSimilarity(encoders.clip_image, alone)
        self.copy_paste = CopyPaste(references, own)
        self.diversity = Diversity(self.identity_encoder)

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str | None],
        groups: Sequence[Hashable],
        masks: Sequence[Tensor] | None = None,
    ) -> dict[str, list[float]]:
        """All scores of pictures of one method.

        Args:
            images: the pictures.
            prompts: the prompt of each, with ``{}`` or the placeholder; None where it is unknown.
            groups: pictures of one group differ in their seed only.
            masks: their subjects' masks; None estimates them.

        Returns:
            For each of :data:`SCORES` one number for each picture; NaN where there is none.
        """
        shapes = list(masks) if masks else [subject_mask(image) for image in images]
        alone = [cut_out(image, mask) for image, mask in zip(images, shapes, strict=True)]
        found: dict[str, list[float]] = {
            "identity": _added(self.identity, self.identity.scores(images)),
            "clip_image": _added(self.clip_image, self.clip_image.scores(images)),
            "clip_text": self._text(images, prompts),
            "identity_masked": _added(self.identity_masked, self.identity_masked.scores(alone)),
            "clip_image_masked": _added(
                self.clip_image_masked, self.clip_image_masked.scores(alone)
            ),
            "copy_paste": _added(self.copy_paste, self.copy_paste.scores(images, shapes)),
            "diversity": _added(self.diversity, self.diversity.scores(images, groups)),
        }
        if self.lpips is not None:
            far = self.lpips
            found["lpips"] = spread(groups, lambda a, b: far(images[a], images[b]))
        self.identity_encoder.forget()
        self.clip_encoder.forget()
        return found

    def scales(self, others: Sequence[Concept]) -> dict[str, Scale]:
        """The scales of the similarities of whole pictures, from other concepts' pictures."""
        found = {
            name: make_scale(
                metric.references, [metric.encoder(list(other.images)) for other in others]
            )
            for name, metric in (("identity", self.identity), ("clip_image", self.clip_image))
        }
        self.identity_encoder.forget()
        self.clip_encoder.forget()
        return found

    def _text(self, images: Sequence[Image.Image], prompts: Sequence[str | None]) -> list[float]:
        told = [index for index, prompt in enumerate(prompts) if prompt is not None]
        values = [float("nan")] * len(images)
        if told:
            texts = [str(prompts[index]) for index in told]
            scores = self.clip_text.scores([images[index] for index in told], texts)
            self.clip_text.accumulate(scores)
            for index, value in zip(told, scores.tolist(), strict=True):
                values[index] = value
        return values


def _added(metric: object, scores: Tensor) -> list[float]:
    accumulate: Callable[[Tensor], None] = metric.accumulate  # type: ignore[attr-defined]
    accumulate(scores[~scores.isnan()])
    return scores.tolist()
