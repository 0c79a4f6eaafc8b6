"""Reference picture -> tensor of the model's size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from framework.config.sampler import RESIZE_MODES
from framework.errors import UserError


def prepare_image(image: Image.Image, height: int, width: int, mode: str = "crop") -> Tensor:
    """Resize a picture.

    Args:
        image: any PIL image.
        height: rows in pixels.
        width: columns.
        mode: ``crop``: cover, then centre crop (Lanczos); ``stretch``: aspect ignored (Lanczos);
            ``stretch_nearest``: aspect ignored, nearest neighbour, as the authors' program does.

    Returns:
        (1, 3, height, width) float32 in [-1, 1].

    Raises:
        UserError: unknown mode.
    """
    if mode not in RESIZE_MODES:
        raise UserError(f"resize mode is '{mode}'; expected one of {', '.join(RESIZE_MODES)}.")
    picture = image.convert("RGB")
    if mode == "crop":
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    else:
        nearest = mode == "stretch_nearest"
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
        picture = picture.resize((width, height), how)
    array = torch.from_numpy(np.array(picture, dtype=np.float32))
    return (array / 127.5 - 1.0).permute(2, 0, 1)[None]
