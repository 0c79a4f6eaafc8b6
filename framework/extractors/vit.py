"""Vision transformers of timm as dense encoders: loading them, and pictures to token grids."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from framework.config.resources import resolve_path
from framework.errors import UserError, first_line


def timm() -> Any:
    """The library, imported when it is first needed: it is slow to import."""
    return importlib.import_module("timm")


class DenseEncoder:
    """Pictures of any size -> grids of patch tokens.

    Args:
        model: a timm model with ``forward_intermediates``.
        layers: indices of the blocks whose tokens are read; negative ones count from the last.
        size: shorter side the picture is resized to, in pixels; None: its own size.

    Attributes:
        fixed: (height, width) of every picture, where the network takes no other.
    """

    def __init__(self, model: Any, layers: list[int], size: int | None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.layers, self.size = layers, size
        own = timm().data.resolve_data_config({}, model=model)
        self.mean, self.std = (torch.tensor(own[key])[:, None, None] for key in ("mean", "std"))
        embed: Any = getattr(model, "patch_embed", None)
        patch = getattr(embed, "patch_size", 32)
        self.patch = patch if isinstance(patch, tuple) else (patch, patch)
        strict = getattr(embed, "strict_img_size", False) and not embed.dynamic_img_pad
        self.fixed = tuple(embed.img_size) if strict and embed.img_size else None
        if self.fixed is not None and size not in (None, min(self.fixed)):
            raise UserError(
                f"extractor.size is {size}, and this {type(model).__name__} takes pictures of "
                f"{self.fixed} pixels only; leave size out, or choose another model."
            )

    def to(self, device: torch.device) -> DenseEncoder:
        """Move the network."""
        self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (n, 3, H, W) in [-1, 1] -> for each layer tokens (n, C, h, w), float32."""
        pixels = (self._sized(pictures.float().clamp(-1, 1)) + 1) / 2
        pixels = (pixels - self.mean) / self.std
        grids = [self._tokens(pixels[start : start + 8]) for start in range(0, len(pixels), 8)]
        return [torch.cat(grid).float() for grid in zip(*grids, strict=True)]

    def _sized(self, pictures: Tensor) -> Tensor:
        """Resize to whole patches, at least one each way, keeping the aspect ratio about."""
        height, width = pictures.shape[-2:]
        if self.fixed is not None:
            return self._interpolated(pictures, self.fixed)
        factor = 1.0 if self.size is None else self.size / min(height, width)
        sides = tuple(
            max(1, round(side * factor / patch)) * patch
            for side, patch in zip((height, width), self.patch, strict=True)
        )
        return self._interpolated(pictures, sides)

    def _interpolated(self, pictures: Tensor, sides: tuple[int, ...]) -> Tensor:
        if tuple(pictures.shape[-2:]) == sides:
            return pictures
        return F.interpolate(
            pictures, size=sides, mode="bicubic", antialias=True, align_corners=False
        )

    def _tokens(self, pixels: Tensor) -> list[Tensor]:
        try:
            return self.model.forward_intermediates(
                pixels, indices=self.layers, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        except AssertionError as error:  # how timm says that a network cannot do this
            raise UserError(
                f"extractor.model is a {type(self.model).__name__}, which gives no grids of tokens "
                f"for pictures of {tuple(pixels.shape[-2:])} pixels: {error or 'refused'}. Choose "
                "a plain vision transformer (DINO, DINOv2, DINOv3), or another extractor.size."
            ) from error


def load_encoder(
    model: str, architecture: str | None, layers: list[int], size: int | None
) -> DenseEncoder:
    """Load an encoder; weights are read without executing code of theirs.

    Args:
        model: a folder as timm saves it (``package:NAME/PATH`` and ``local-dir:PATH`` too), a file
            of weights, or a timm name.
        architecture: timm name of the architecture, for a file.
        layers: see :class:`DenseEncoder`.
        size: likewise.

    Raises:
        UserError: it cannot be loaded, is no network with intermediate grids, or has not that many
            layers.
    """
    options: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    path = resolve_path(model.removeprefix("local-dir:"))
    if path.is_dir():
        name = f"local-dir:{path}"
    elif path.is_file():
        if architecture is None:
            raise UserError(
                f"extractor.model '{model}' is a file of weights; name what it belongs to: "
                "extractor.architecture=vit_small_patch16_dinov3, say."
            )
        _check_safe(path)
        name = architecture
        options["pretrained_cfg_overlay"] = {"file": str(path), "source": "file"}
    elif model.startswith((".", "/", "~", "package:", "local-dir:")):
        raise UserError(
            f"extractor.model '{model}' does not exist; expected a folder or file of weights, or a "
            "timm name."
        )
    else:
        name = model
    try:
        with torch.random.fork_rng():  # initial weights draw from it
            try:
                made = timm().create_model(name, dynamic_img_size=True, **options)
            except TypeError:  # a network that takes any size as it is
                made = timm().create_model(name, **options)
    except Exception as error:
        raise UserError(
            f"extractor.model '{model}' cannot be loaded: {first_line(error)}. Give a timm name "
            "that can be had, or a local folder or file."
        ) from error
    if not hasattr(made, "forward_intermediates"):
        raise UserError(
            f"extractor.model '{model}' is a {type(made).__name__}, whose inner grids timm does "
            "not offer; choose a vision transformer."
        )
    depth = len(getattr(made, "blocks", ())) or max(map(abs, layers)) + 1
    if any(not -depth <= layer < depth for layer in layers):
        raise UserError(
            f"extractor.layers is {layers}; the model has {depth} layers, numbered from 0 (or from "
            "-1 backwards)."
        )
    return DenseEncoder(made, sorted(layer % depth for layer in layers), size)


def _check_safe(path: Path) -> None:
    """Refuse a file that is no weights, or cannot be read without executing code."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), "pt"):
                return
        torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, Exception) as error:  # many classes, all mean the same here
        raise UserError(
            f"extractor.model '{path}' cannot be read as weights alone: it is damaged, or holds "
            "more than tensors. Save it as .safetensors or as a plain state dict."
        ) from error
