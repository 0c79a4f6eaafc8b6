"""Base of mask providers that look at cross-attention maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from framework.errors import UserError
from framework.interfaces import Backbone, MaskProvider
from framework.interfaces.shapes import grid_of
from framework.interfaces.step import StepContext
from framework.types import Layout, Masks


class AttentionMapMask(MaskProvider):
    """Makes masks of the cross-attention to the concept's tokens.

    What a subclass declares: :meth:`masks_of_maps`, and :meth:`looks_at` if not every grid counts.
    Its option ``layers`` names the layers and ``tokens``, if there is one, replaces the concept's
    positions. Capturing, the reference's evaluation apart from the targets, and its cache are seen
    to here. Maps are those of the conditional half and serve both.
    """

    _paused = False

    @abstractmethod
    def masks_of_maps(
        self, target: Sequence[Tensor], reference: Sequence[Tensor], height: int, width: int
    ) -> Masks:
        """Masks made of the maps seen so far in this step.

        Args:
            target: of each layer the mean over heads and over the concept's tokens, (N, h, w).
            reference: likewise of the same layers, (1, h, w).
            height: rows H of the attention grid that asks.
            width: columns W.

        Returns:
            target (N, H, W) and reference (1, H, W), in [0, 1].
        """

    def looks_at(self, grid: tuple[int, int]) -> bool:
        """Whether layers of that grid (h, w) are looked at. Default: all are."""
        return True

    @contextmanager
    def attach(  # type: ignore[override]
        self,
        backbone: Backbone,
        layout: Layout,
        latent_size: tuple[int, int],
        target_tokens: list[list[int]],
        reference_tokens: list[int],
    ) -> Iterator[None]:
        """Capture maps in the cross-attention layers; see the base class."""
        layers = backbone.text_attentions(self.config.layers, "mask.layers")
        self._latent_size, self._layout = latent_size, layout
        self._device = backbone.device
        given = getattr(self.config, "tokens", None)
        self._target_tokens = target_tokens if given is None else [given] * len(target_tokens)
        self._reference_tokens = reference_tokens if given is None else given
        self._grids: set[tuple[int, int]] = set()
        self._maps: list[Tensor] = []
        self._memory: list[Tensor] | None = None
        self._of_reference = False
        try:
            with backbone.tapped(layers, self):
                yield
        finally:
            self._maps = []

    def begin_step(self, context: StepContext) -> None:
        """See the base class."""
        self._of_reference = context.shows_reference
        self._maps = []
        self._memory = None

    def remember(self) -> dict[str, Tensor]:
        """The reference's map of each layer, (1, H, W), in their order."""
        return {f"{place:03d}": maps for place, maps in enumerate(self._maps)}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See the base class."""
        self._memory = [memory[place].to(self._device) for place in sorted(memory)]

    def memory_key(self) -> str:
        """See the base class."""
        return f"{super().memory_key()} for {self._reference_tokens}"

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
        """Whether the map of a layer with that many positions is looked at now."""
        if self._paused or not (self._of_reference or self._memory is not None):
            return False
        grid = grid_of(positions, *self._latent_size)
        self._grids.add(grid)
        return self.looks_at(grid)

    def capture(self, layer: str, probabilities: Tensor) -> None:
        """Keep the concept's column of one layer.

        Args:
            layer: its path.
            probabilities: (rows, heads, positions, tokens), all halves.
        """
        grid = grid_of(probabilities.shape[2], *self._latent_size)
        rows = len(probabilities) // self._layout.halves
        mean = probabilities[-rows:].detach().float().mean(dim=1)
        last = max((token for tokens in self._target_tokens for token in tokens), default=0)
        if last >= mean.shape[-1]:
            raise UserError(
                f"mask.tokens has position {last}; the text has {mean.shape[-1]} tokens, numbered "
                "from 0."
            )
        tokens = [self._reference_tokens] if self._of_reference else self._target_tokens
        columns = [
            row[:, chosen].mean(dim=-1) if chosen else row.new_zeros(len(row))  # not in this prompt
            for row, chosen in zip(mean, tokens, strict=True)
        ]
        self._maps.append(torch.stack(columns).unflatten(1, grid))

    def masks(self, height: int, width: int, pairs: int) -> Masks:
        """See :meth:`framework.interfaces.MaskProvider.masks`.

        Raises:
            UserError: no layer that is looked at came before the layer that asks.
        """
        if not self._maps:
            raise UserError(self._too_late())
        reference = (self._memory or [])[: len(self._maps)]
        masks = self.masks_of_maps(self._maps, reference, height, width)
        return Masks(
            target=masks.target.repeat(pairs // len(masks.target), 1, 1),
            reference=masks.reference.expand(pairs, -1, -1),
        )

    def _too_late(self) -> str:
        return (
            f"Mask '{self.name or type(self).__name__}' looks at no cross-attention layer that "
            f"comes before the first matched layer; grids seen: {sorted(self._grids)}."
        )
