"""A mask made of cross-attention maps: how to make it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from framework import AttentionMapMask, Masks, PartConfig, option, resize_mask


@dataclass
class SharpConfig(PartConfig):
    """Options of :class:`SharpMask`."""

    layers: list[str] = option([r".*attn2"], "regular expressions on cross-attention layers")
    cells: int = option(4, "cells on the shorter side of the maps that count", low=1)


class SharpMask(AttentionMapMask):
    """Foreground is where a map is above its mean."""

    Config = SharpConfig

    def looks_at(self, grid):
        return min(grid) == self.config.cells

    def masks_of_maps(self, target, reference, height, width):
        def sharp(maps):
            mean = torch.stack([*maps]).mean(dim=0)
            above = mean > mean.mean(dim=(1, 2), keepdim=True)
            return resize_mask(above.float(), height, width)

        return Masks(sharp(target), sharp(reference))
