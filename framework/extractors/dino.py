"""Descriptors from a vision transformer that looks at the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.extractors.blocks import unit
from framework.extractors.pca import joint_pca
from framework.extractors.vit import DenseEncoder, load_encoder
from framework.geometry import resize_grid
from framework.interfaces import EXTRACTORS, Backbone, FeatureExtractor
from framework.interfaces.step import StepOutputs
from framework.options import PartConfig, option
from framework.types import Features


@dataclass
class DinoConfig(PartConfig):
    """Options of :class:`Dino`."""

    model: str = option(
        "package:framework.toyworld/weights/identity",
        "timm name (vit_small_patch14_reg4_dinov2.lvd142m, say), or a folder or file of weights",
    )
    architecture: str | None = option(None, "timm name of what a file of weights belongs to")
    layers: list[int] = option(
        [-1], "blocks whose patch tokens are read; from 0, or from -1 backwards"
    )
    size: int | None = option(
        None, "shorter side at which it looks, in pixels; null: the picture's own", low=8
    )
    pca: int | None = option(None, "components of a joint PCA; null: none", low=1)
    every: int = option(1, "it looks at the target anew in every so many steps", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            raise UserError("layers is empty; name at least one block, e.g. [-1].")


@EXTRACTORS.register("dino")
class Dino(FeatureExtractor):
    """Patch tokens of a vision transformer (DINO, DINOv2, DINOv3, any timm ViT) on the pictures.

    It looks at the reference picture, and at the clean target predicted in this step, decoded. Both
    halves of classifier-free guidance show the same picture, so the conditional one is decoded for
    both. Each layer's tokens are normalised before they are joined. Positional embeddings are
    resized to the picture. Cost: a VAE decode and a look for each target in every ``every``-th
    matched step; the reference is looked at once a sampling call.
    """

    Config = DinoConfig
    unsigned = ("every",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._encoder: DenseEncoder | None = None

    @property
    def encoder(self) -> DenseEncoder:
        """The network, loaded when it is first needed."""
        if self._encoder is None:
            config = self.config
            self._encoder = load_encoder(
                config.model, config.architecture, list(config.layers), config.size
            )
        return self._encoder

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:  # type: ignore[override]
        """Load the network and put it beside the model; see the base class."""
        self.encoder.to(backbone.device)
        self._reference: Tensor | None = None
        self._last: tuple[int, Features] | None = None
        try:
            yield
        finally:
            self._reference = self._last = None

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        if self._last is not None and 0 <= step.index - self._last[0] < self.config.every:
            return self._last[1]
        halves, targets = step.layout.halves, step.layout.targets
        pictures = step.pictures[-targets:]
        if self._reference is None:
            self._reference = self._describe(step.reference.image.to(pictures))
        target = self._describe(pictures)
        reference = self._reference.expand(targets, -1, -1, -1)
        if self.config.pca is not None:
            target, reference = joint_pca(target, reference, self.config.pca)
        features = Features(
            unit(target).repeat(halves, 1, 1, 1), unit(reference).repeat(halves, 1, 1, 1)
        )
        self._last = step.index, features
        return features

    def _describe(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) -> (n, h, w, D), on the finest of the layers' grids."""
        grids = [unit(grid.permute(0, 2, 3, 1)) for grid in self.encoder(pictures)]
        height, width = max(grid.shape[1:3] for grid in grids)
        return torch.cat([unit(resize_grid(grid, height, width)) for grid in grids], dim=-1)
