"""The similarities, as functions of vectors and as torchmetrics that reduce over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from framework.metrics.encoders import ImagesToVectors, TextsToVectors
from framework.metrics.text import plain_prompt, template_prompt
from framework.types import Concept


def mean_cosine(vectors: Tensor, others: Tensor) -> Tensor:
    """Mean cosine similarity of each vector with all others.

    Args:
        vectors: (n, D), L2-normalised.
        others: (m, D), likewise; m >= 1.

    Returns:
        (n,) in [-1, 1].
    """
    return (vectors @ others.T).mean(dim=1)


def paired_cosine(vectors: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity of each vector with the other in its row: (n, D), (n, D) -> (n,)."""
    return (vectors * others).sum(dim=1)


class MeanSimilarity(Metric):
    """Mean of one number for each picture; sum and count are added up over ranks.

    ``compute()`` is in [-1, 1], and NaN before the first picture.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def accumulate(self, scores: Tensor) -> None:
        """Add one score for each picture, (n,)."""
        self.total += scores.sum(dtype=torch.float64).to(self.total.device)
        self.count += scores.numel()

    def compute(self) -> Tensor:
        """The mean, a scalar float64."""
        return self.total / self.count


class ImageSimilarity(MeanSimilarity):
    """Mean cosine of every picture with every reference picture.

    Args:
        encoder: pictures -> (n, D), L2-normalised.
        references: the concept's pictures, at least one.
    """

    def __init__(self, encoder: ImagesToVectors, references: Sequence[Image.Image]) -> None:
        super().__init__()
        self.encoder = encoder
        self.references = encoder(list(references))

    def scores(self, images: Sequence[Image.Image]) -> Tensor:
        """One similarity for each picture, (n,)."""
        return mean_cosine(self.encoder(list(images)), self.references)

    def update(self, images: Sequence[Image.Image]) -> None:
        """Add pictures."""
        self.accumulate(self.scores(images))


class IdentitySimilarity(ImageSimilarity):
    """Mean cosine of every picture with every reference in the identity encoder's space (I_DINO).

    Args:
        encoder: pictures -> vectors that tell objects apart.
        references: the concept's pictures.
    """


class ClipImageSimilarity(ImageSimilarity):
    """Mean cosine of every picture with every reference in CLIP's image space (I_CLIP).

    Args:
        encoder: CLIP's image tower.
        references: the concept's pictures.
    """


class ClipTextSimilarity(MeanSimilarity):
    """Cosine of each picture with its own prompt in CLIP's space (T_CLIP).

    CLIP does not know the concept's placeholder, so the text is the prompt without it: "a photo of
    a S* mug in the snow" is scored as "a photo of a mug in the snow". ``text="template"`` scores
    "a photo of a {} in the snow" instead, as the authors' program does.

    Args:
        image_encoder: CLIP's image tower.
        text_encoder: CLIP's text tower.
        concept: whose placeholder is taken out.
        text: ``plain`` or ``template``.
    """

    def __init__(
        self,
        image_encoder: ImagesToVectors,
        text_encoder: TextsToVectors,
        concept: Concept,
        text: str = "plain",
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.concept = concept
        self.rewrite = template_prompt if text == "template" else plain_prompt

    def scores(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """One similarity for each picture with the prompt in its place, (n,)."""
        texts = [self.rewrite(prompt, self.concept) for prompt in prompts]
        distinct = list(dict.fromkeys(texts))
        vectors = self.text_encoder(distinct)[[distinct.index(text) for text in texts]]
        return paired_cosine(self.image_encoder(list(images)), vectors)

    def update(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """Add pictures and their prompts."""
        self.accumulate(self.scores(images, prompts))
