"""Pictures -> the tensor an encoder expects, with PIL alone, so that numbers do not move.

Image processors of the usual libraries pick a torchvision or a PIL backend by what is installed,
and the two differ in the last digits; here there is one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise.

    Attributes:
        size: side of the square in pixels.
        mean: of each channel, on [0, 1].
        std: deviation of each channel, on [0, 1].
        crop: share of the resized picture's side that the centre crop keeps, in (0, 1].
        filter: one of :data:`FILTERS`.
        stretch: ignore the aspect ratio instead of cropping to a square.
        first: side of the square the picture is stretched to before anything else, or None.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0
    filter: str = "bicubic"
    stretch: bool = False
    first: int | None = None

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures -> (n, 3, size, size), float32."""
        if not images:
            return torch.empty(0, 3, self.size, self.size)
        return torch.stack([self._one(image) for image in images])

    def _one(self, image: Image.Image) -> Tensor:
        picture = image.convert("RGB")
        side = round(self.size / self.crop)
        how = FILTERS[self.filter]
        if self.first is not None:
            picture = picture.resize((self.first, self.first), how)
        if self.stretch:
            picture = picture.resize((side, side), how)
        else:
            picture = ImageOps.fit(picture, (side, side), how)
        margin = (side - self.size) // 2
        picture = picture.crop((margin, margin, margin + self.size, margin + self.size))
        array = torch.from_numpy(np.array(picture, dtype=np.float32) / 255.0)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((array - mean) / std).permute(2, 0, 1)
