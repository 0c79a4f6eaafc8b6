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
            ``stretch_nearest``: aspect ignored, the pixels of :func:`nearest_pixels`, as in the
            authors' program.

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
    elif mode == "stretch":
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    else:
        picture = nearest_pixels(picture, height, width)
    array = torch.from_numpy(np.array(picture, dtype=np.float32))
    return (array / 127.5 - 1.0).permute(2, 0, 1)[None]


def nearest_pixels(image: Image.Image, height: int, width: int) -> Image.Image:
    """Stretch a picture: output pixel i is input pixel floor(i * in / out), in rows and columns.

    This is torch's ``nearest``. PIL's NEAREST takes floor((i + 1/2) * in / out), another pixel
    nearly everywhere, which changes the latent of a photo visibly.

    Args:
        image: any PIL image, of any mode with one number or tuple a pixel.
        height: rows in pixels.
        width: columns.

    Returns:
        An image of the same mode and the new size.
    """
    rows = np.arange(height) * image.height // height
    columns = np.arange(width) * image.width // width
    return Image.fromarray(np.asarray(image)[rows[:, None], columns])
