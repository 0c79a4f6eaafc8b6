"""Diversity: how far apart the pictures of one prompt are from seed to seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from framework.errors import UserError
from framework.metrics.encoders import ImagesToVectors
from framework.metrics.similarity import MeanSimilarity
from framework.metrics.subject import to_tensor

#: Backbone -> torchvision's file in the cache of torch.hub, without which LPIPS cannot be had.
BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}

Distance = Callable[[Image.Image, Image.Image], float]


def spread(groups: Sequence[Hashable], distances: Callable[[int, int], float]) -> list[float]:
    """Mean distance of each item to the others of its group; NaN for one alone in its group."""
    found = []
    for index, group in enumerate(groups):
        others = [i for i, other in enumerate(groups) if other == group and i != index]
        found.append(
            sum(distances(index, other) for other in others) / len(others)
            if others
            else float("nan")
        )
    return found


class Diversity(MeanSimilarity):
    """Mean of 1 - cosine between pictures of one prompt, over pairs of seeds.

    Args:
        encoder: pictures -> vectors.
    """

    def __init__(self, encoder: ImagesToVectors) -> None:
        super().__init__()
        self.encoder = encoder

    def scores(self, images: Sequence[Image.Image], groups: Sequence[Hashable]) -> Tensor:
        """For each picture its mean distance to the others of its group, (n,); NaN without any."""
        vectors = self.encoder(list(images))
        return torch.tensor(spread(groups, lambda a, b: 1 - float(vectors[a] @ vectors[b])))

    def update(self, images: Sequence[Image.Image], groups: Sequence[Hashable]) -> None:
        """Add pictures; all pictures of a group in one call."""
        found = self.scores(images, groups)
        self.accumulate(found[~found.isnan()])


def lpips_distance(backbone: str | None = None) -> Distance | None:
    """LPIPS between two pictures at 64 pixels or more, where its backbone is at hand.

    Args:
        backbone: ``alex``, ``squeeze`` or ``vgg``; None takes the first whose file is in
            torch.hub's cache. Nothing is downloaded.

    Returns:
        A function of two pictures; None if no backbone is there and none was asked for.

    Raises:
        UserError: the backbone asked for is not there (naming the file looked for).
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    names = list(BACKBONES) if backbone is None else [backbone]
    found = next((name for name in names if (cache / BACKBONES[name]).is_file()), None)
    if found is None:
        if backbone is None:
            return None
        raise UserError(
            f"LPIPS with '{backbone}' needs {cache / BACKBONES[backbone]}, which is not there; "
            "download it (torchvision's weights), or set evaluation.lpips to null."
        )
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(pretrained=True, net=found).eval()  # type: ignore[arg-type]

    @torch.no_grad()
    def distance(first: Image.Image, second: Image.Image) -> float:
        side = max(64, min(256, first.width))
        pair = [2 * to_tensor(image, side)[None] - 1 for image in (first, second)]
        return float(network(*pair).mean())

    return distance
