"""Foreground masks from the cross-attention to the concept's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from framework.backbones.attention import finish, project, replaced_processors
from framework.backbones.layers import is_cross_attention, resolve
from framework.errors import UserError
from framework.geometry import resize_mask
from framework.interfaces import MASKS, MaskProvider
from framework.interfaces.shapes import grid_of
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
class CrossAttentionMask(MaskProvider):
    """Mean cross-attention to the concept's tokens, soft, min-max normalised.

    Averaged over heads, over the concept's sub-word tokens and over every layer of the chosen
    resolution seen so far in the step; taken from the conditional half and used for both halves.
    """

    Config = CrossAttentionMaskConfig
    separable = True
    _paused = False

    @contextmanager
    def attach(  # type: ignore[override]
        self,
        unet: Any,
        layout: Layout,
        latent_size: tuple[int, int],
        target_tokens: list[list[int]],
        reference_tokens: list[int],
    ) -> Iterator[None]:
        """Capture maps in the cross-attention layers; see the base class."""
        layers = resolve(unet, self.config.layers, is_cross_attention, "mask.layers")
        self._latent_size = latent_size
        self._device = next(unet.parameters()).device
        given = self.config.tokens
        self._target_tokens = target_tokens if given is None else [given] * len(target_tokens)
        self._reference_tokens = reference_tokens if given is None else given
        self._check_resolution()
        self._grids: set[tuple[int, int]] = set()
        self.begin_step(layout)
        try:
            with replaced_processors(layers, lambda name, old: _CapturingProcessor(self, old)):
                yield
        finally:
            self._maps = []

    def _check_resolution(self) -> None:
        """Refuse a resolution which no halving of the latent has."""
        grid = self._latent_size
        sides = [min(grid)]
        while max(grid) > 1:
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
            sides.append(min(grid))
        if self.config.resolution not in sides:
            height, width = self._latent_size
            raise UserError(
                f"mask.resolution is {self.config.resolution}; the layers of a {height} x {width} "
                f"latent can have {', '.join(map(str, dict.fromkeys(sides)))} cells on the shorter "
                "side."
            )

    def begin_step(self, layout: Layout) -> None:
        """See the base class."""
        self._layout = layout
        self._maps: list[Tensor] = []
        self._memory: list[Tensor] | None = None

    def remember(self) -> dict[str, Tensor]:
        """The reference's map of each layer, (1, H, W), in their order."""
        return {f"{place:03d}": maps for place, maps in enumerate(self._maps)}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See the base class."""
        self._memory = [memory[place].to(self._device) for place in sorted(memory)]

    def memory_key(self) -> str:
        """See the base class."""
        config = self.config
        return f"maps of {config.layers} at {config.resolution} for {self._reference_tokens}"

    @contextmanager
    def paused(self) -> Iterator[None]:  # type: ignore[override]
        """See the base class."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @property
    def version(self) -> int:
        """Number of maps seen so far in this step."""
        return len(self._maps)

    def wants(self, positions: int) -> bool:
        """Whether a layer with that many positions has the chosen resolution."""
        if self._paused or not (self._layout.references or self._memory is not None):
            return False
        grid = grid_of(positions, *self._latent_size)
        self._grids.add(grid)
        return min(grid) == self.config.resolution

    def capture(self, probabilities: Tensor) -> None:
        """Keep the concept's column of one layer.

        Args:
            probabilities: conditional half, (rows, heads, positions, tokens), reference first if it
                takes part.
        """
        grid = grid_of(probabilities.shape[2], *self._latent_size)
        mean = probabilities.detach().float().mean(dim=1)
        last = max((token for tokens in self._target_tokens for token in tokens), default=0)
        if last >= mean.shape[-1]:
            raise UserError(
                f"mask.tokens has position {last}; the text has {mean.shape[-1]} tokens, numbered "
                "from 0."
            )
        layout = self._layout
        targets = self._target_tokens if layout.targets else []
        rows = [self._reference_tokens] * layout.references + targets
        columns = [
            row[:, tokens].mean(dim=-1) if tokens else row.new_zeros(len(row))  # not in this prompt
            for row, tokens in zip(mean, rows, strict=True)
        ]
        self._maps.append(torch.stack(columns).unflatten(1, grid))

    def masks(self, height: int, width: int, pairs: int) -> Masks:
        """See :meth:`framework.interfaces.MaskProvider.masks`.

        Raises:
            UserError: no layer of the chosen resolution came before the layer that asks.
        """
        if not self._maps:
            raise UserError(
                f"mask.resolution is {self.config.resolution}, but no cross-attention layer of "
                f"that grid comes before the first matched layer; grids seen: "
                f"{sorted(self._grids)}."
            )
        maps = torch.stack(self._maps)
        if self._memory is not None:
            maps = torch.cat([torch.stack(self._memory[: len(maps)]), maps], dim=1)
        both = resize_mask(normalise(maps.mean(dim=0)), height, width)
        halves = pairs // (both.shape[0] - 1)
        return Masks(
            target=both[1:].repeat(halves, 1, 1),
            reference=both[:1].expand(pairs, -1, -1),
        )


class _CapturingProcessor:
    """Cross-attention with explicit probabilities where a mask is made of them.

    Several may stand on one layer, each for a concept of its own; the attention is computed once.
    """

    stacks = True

    def __init__(self, provider: CrossAttentionMask, plain: Any) -> None:
        inner = plain if isinstance(plain, _CapturingProcessor) else None
        self.providers = [provider] if inner is None else [*inner.providers, provider]
        self.plain = plain if inner is None else inner.plain

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See diffusers' ``AttnProcessor2_0``; other resolutions run the layer's own processor."""
        positions = hidden_states.shape[1]
        wanting = [
            provider
            for provider in self.providers
            if encoder_hidden_states is not None and provider.wants(positions)
        ]
        if not wanting:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, key, value = project(attn, hidden_states, encoder_hidden_states)
        rows, heads = query.shape[:2]
        probabilities = attn.get_attention_scores(
            query.flatten(0, 1), key.flatten(0, 1), attention_mask
        ).unflatten(0, (rows, heads))
        for provider in wanting:
            provider.capture(probabilities[rows - rows // provider._layout.halves :])
        return finish(attn, probabilities @ value, hidden_states)
