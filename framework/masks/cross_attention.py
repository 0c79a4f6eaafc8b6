"""Foreground masks from the cross-attention to the concept's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.geometry import resize_mask
from framework.interfaces import MASKS, Backbone
from framework.masks.attention_maps import AttentionMapMask
from framework.options import PartConfig, option
from framework.types import Layout, Masks


@dataclass
class CrossAttentionMaskConfig(PartConfig):
    """Options of :class:`CrossAttentionMask`."""

    layers: list[str] = option([r".*attn2"], "regular expressions on cross-attention layers")
    resolution: int = option(
        16, "layers whose grid has this many cells on its shorter side are averaged", low=1
    )
    tokens: list[int] | None = option(
        None,
        "positions in the prompt's token sequence (the start token is 0) to use in place of the "
        "concept's own; null: every sub-word of placeholder and class",
        low=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens is not None and not self.tokens:
            raise UserError("tokens is empty; give at least one position, or null.")


def normalise(maps: Tensor) -> Tensor:
    """Min-max normalise each map (n, H, W) to [0, 1]; a constant map gives zeros."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    high = maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


@MASKS.register("cross_attention")
class CrossAttentionMask(AttentionMapMask):
    """Mean cross-attention to the concept's tokens, soft, min-max normalised.

    Averaged over heads, over the concept's sub-word tokens and over every layer of the chosen
    resolution seen so far in the step; taken from the conditional half and used for both halves.
    """

    Config = CrossAttentionMaskConfig

    @contextmanager
    def attach(  # type: ignore[override]
        self, backbone: Backbone, layout: Layout, latent_size: tuple[int, int], *tokens: Any
    ) -> Iterator[None]:
        """Refuse a resolution the latent does not have; see the base class."""
        self._check_resolution(latent_size)
        with super().attach(backbone, layout, latent_size, *tokens):
            yield

    def _check_resolution(self, grid: tuple[int, int]) -> None:
        """Refuse a resolution which no halving of the latent has."""
        height, width = grid
        sides = [min(grid)]
        while max(grid) > 1:
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
            sides.append(min(grid))
        if self.config.resolution not in sides:
            raise UserError(
                f"mask.resolution is {self.config.resolution}; the layers of a {height} x {width} "
                f"latent can have {', '.join(map(str, dict.fromkeys(sides)))} cells on the shorter "
                "side."
            )

    def memory_key(self) -> str:
        """See the base class."""
        config = self.config
        return f"maps of {config.layers} at {config.resolution} for {self._reference_tokens}"

    def looks_at(self, grid: tuple[int, int]) -> bool:
        """See the base class."""
        return min(grid) == self.config.resolution

    def masks_of_maps(
        self, target: Sequence[Tensor], reference: Sequence[Tensor], height: int, width: int
    ) -> Masks:
        """See the base class."""
        maps = torch.cat([torch.stack([*reference]), torch.stack([*target])], dim=1)
        both = resize_mask(normalise(maps.mean(dim=0)), height, width)
        return Masks(target=both[1:], reference=both[:1])

    def _too_late(self) -> str:
        return (
            f"mask.resolution is {self.config.resolution}, but no cross-attention layer of that "
            f"grid comes before the first matched layer; grids seen: {sorted(self._grids)}."
        )
