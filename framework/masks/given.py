"""The reference's mask from a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from framework.concepts.preprocess import nearest_pixels
from framework.config.resources import plain_file, resolve_path
from framework.config.sampler import RESIZE_MODES
from framework.errors import UserError
from framework.geometry import resize_mask
from framework.interfaces import MASKS, Backbone, MaskProvider
from framework.options import PartConfig, option
from framework.types import Layout, Masks

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass
class GivenMaskConfig(PartConfig):
    """Options of :class:`GivenMask`."""

    path: str | None = option(None, "mask picture (white: the concept), or a folder of them")
    index: int = option(
        0, "which picture of the folder, by name; as sampler.reference_index", low=0
    )
    resize: str = option("crop", "as sampler.resize", choices=RESIZE_MODES)


@MASKS.register("given")
class GivenMask(MaskProvider):
    """The reference's mask from a picture of its own; the target counts as foreground everywhere.

    Where the concept will be in the target nobody can have drawn, so M^Y is 1. M^X matters to
    matchers and injectors that look at it, such as ``key_value_concat``.
    """

    Config = GivenMaskConfig

    @contextmanager
    def attach(  # type: ignore[override]
        self,
        backbone: Backbone,
        layout: Layout,
        latent_size: tuple[int, int],
        target_tokens: list[list[int]],
        reference_tokens: list[int],
    ) -> Iterator[None]:
        """Read the picture; see the base class."""
        device = backbone.device
        self._mask = read_mask(self._file(), *latent_size, self.config.resize).to(device)
        yield

    def masks(self, height: int, width: int, pairs: int) -> Masks:
        """See :meth:`framework.interfaces.MaskProvider.masks`."""
        reference = resize_mask(self._mask, height, width).expand(pairs, -1, -1)
        return Masks(target=torch.ones_like(reference), reference=reference)

    def _file(self) -> Path:
        if self.config.path is None:
            raise UserError("mask.path is not given; name a mask picture or a folder of them.")
        path = resolve_path(self.config.path)
        if not path.is_dir():
            return path
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        if self.config.index >= len(files):
            raise UserError(
                f"mask.index is {self.config.index}, but '{path}' has {len(files)} picture(s), "
                "numbered from 0."
            )
        return files[self.config.index]


def read_mask(file: Path, height: int, width: int, mode: str) -> Tensor:
    """Read a mask picture at the size of a grid, nearest neighbour.

    Args:
        file: a picture; grey values are soft.
        height: rows.
        width: columns.
        mode: ``crop``, ``stretch`` or ``stretch_nearest``, as the reference picture itself is
            brought to size.

    Returns:
        (1, height, width) in [0, 1].

    Raises:
        UserError: the file is missing or no picture.
    """
    try:
        with Image.open(plain_file(file, "picture")) as opened:
            picture = opened.convert("L")
    except (UserError, UnidentifiedImageError, OSError) as error:
        raise UserError(f"mask.path: '{file}' cannot be read as a picture: {error}.") from error
    if mode == "crop":
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.NEAREST)
    elif mode == "stretch":
        picture = picture.resize((width, height), Image.Resampling.NEAREST)
    else:
        picture = nearest_pixels(picture, height, width)
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 255.0)[None]
