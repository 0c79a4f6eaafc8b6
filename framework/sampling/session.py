"""What the layers of one sampling call share: the step, its features, masks and matches.

Held by the attention processors for the duration of a call; nothing is stored on the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from framework.geometry import resize_grid
from framework.interfaces import Injector, MaskProvider, Matcher
from framework.interfaces.injector import AttentionInputs
from framework.interfaces.shapes import grid_of
from framework.types import Correspondence, Features, Layout, Masks, Views


class Session:
    """State of one sampling call.

    Args:
        layout: order of the rows when the reference takes part.
        latent_size: (h, w) of the latents.
        mask: mask provider.
        matcher: matcher.
        injector: injector.

    Attributes:
        features: descriptors to match with; None before the first are made, or if none are needed.
        views: pictures (and truth) to match with, for matchers that ask for them.
        truth: the true correspondence where it is known; goes into the views.
        memory: what was recorded of the reference for this step, where it was evaluated apart.
        record: where matched layers put the reference's tensors while it is evaluated apart.
        seen: matches and masks of the finest (if several, the last) layer injected in this step.
    """

    def __init__(
        self,
        layout: Layout,
        latent_size: tuple[int, int],
        mask: MaskProvider,
        matcher: Matcher,
        injector: Injector,
    ) -> None:
        self.layout = layout
        self.latent_size = latent_size
        self.mask = mask
        self.matcher = matcher
        self.injector = injector
        self.features: Features | None = None
        self.views: Views | None = None
        self.truth: Correspondence | None = None
        self.memory: Mapping[str, Tensor] = {}
        self.record: dict[str, Tensor] | None = None
        self.injecting = False
        self.seen: tuple[Correspondence, Masks] | None = None
        self._flows: dict[tuple[int, int, int], Correspondence] = {}
        self._sized_of: Features | None = None
        self._sized: dict[tuple[int, int], Features] = {}

    @property
    def pairs(self) -> int:
        """Number of (target, reference) pairs B."""
        return self.layout.halves * self.layout.targets

    def begin_step(self, layout: Layout, injecting: bool) -> None:
        """Start a U-Net evaluation.

        Args:
            layout: order of its rows.
            injecting: whether matched layers act in it.
        """
        self.layout = layout
        self.injecting = injecting
        self.seen = None
        self._flows.clear()
        self.mask.begin_step(layout)

    def grid(self, positions: int) -> tuple[int, int]:
        """Grid (H, W) of an attention layer with that many positions."""
        return grid_of(positions, *self.latent_size)

    def masks(self, grid: tuple[int, int]) -> Masks:
        """Masks (B, H, W) on a grid, from the maps seen so far in this step."""
        return self.mask(*grid, self.pairs)

    def correspondence(self, grid: tuple[int, int]) -> Correspondence:
        """Matches on a grid; computed once per step, grid and state of the masks."""
        key = (*grid, self.mask.version)
        if key not in self._flows:
            self._flows[key] = self.match(grid, self.masks(grid))
        return self._flows[key]

    def match(self, grid: tuple[int, int], masks: Masks) -> Correspondence:
        """Match what the session holds on a grid, without gradient, whatever was matched before."""
        with torch.no_grad():
            return self.matcher(self._on_grid(grid), masks, self.views)

    def _on_grid(self, grid: tuple[int, int]) -> Features | None:
        """The descriptors on a grid: one object for as long as they stay the same."""
        if self.features is None:
            return None
        if self._sized_of is not self.features:
            self._sized_of, self._sized = self.features, {}
        if grid not in self._sized:
            self._sized[grid] = on_grid(self.features, grid)
        return self._sized[grid]

    @contextmanager
    def plain(self) -> Iterator[None]:
        """While it lasts U-Net evaluations are neither injected into nor seen by the masks."""
        before, self.injecting = self.injecting, False
        try:
            with self.mask.paused():
                yield
        finally:
            self.injecting = before

    @contextmanager
    def recording(self, record: dict[str, Tensor] | None, masked: bool) -> Iterator[None]:
        """While it lasts the reference is evaluated alone.

        Args:
            record: where matched layers leave what the injector uses; None if nowhere.
            masked: whether the mask provider looks.
        """
        self.record = record
        try:
            with nullcontext() if masked else self.mask.paused():
                yield
        finally:
            self.record = None

    def keep(self, layer: str, tensors: Mapping[str, Tensor]) -> None:
        """Record what the injector uses of the reference in one layer, if somebody asked for it."""
        if self.record is not None:
            for name in self.injector.uses:
                self.record[f"{layer}/{name}"] = tensors[name]

    def recalled(self, layer: str, name: str) -> Tensor:
        """A recorded tensor, (halves, heads, H * W, d); empty where the injector uses none."""
        if name in self.injector.uses:
            return self.memory[f"{layer}/{name}"]
        return torch.empty(0)

    def attend(self, inputs: AttentionInputs, masks: Masks | None = None) -> Tensor:
        """Run the injector in one layer; note what it used if no finer layer has acted yet.

        Args:
            inputs: of the layer.
            masks: where to inject; default: this session's own masks.
        """
        grid = inputs.grid
        masks = self.masks(grid) if masks is None else masks
        if not self.injector.needs_correspondence:
            return self.injector(inputs, None, masks)
        matches = self.correspondence(grid)
        if self.seen is None or grid[0] >= self.seen[0].flow.shape[1]:
            self.seen = matches, masks
        return self.injector(inputs, matches, masks)


def match_on_grid(
    features: Features | None,
    masks: Masks,
    grid: tuple[int, int],
    matcher: Matcher,
    views: Views | None = None,
) -> Correspondence:
    """Resize descriptors to a grid, normalise them again, and match.

    Args:
        features: descriptors on any grid; None if the matcher needs none.
        masks: masks on ``grid``.
        grid: (H, W).
        matcher: the matcher.
        views: pictures or truth, for matchers that need them.
    """
    return matcher(None if features is None else on_grid(features, grid), masks, views)


def on_grid(features: Features, grid: tuple[int, int]) -> Features:
    """Descriptors resized to a grid (H, W) and normalised again."""
    return Features(_resized(features.target, grid), _resized(features.reference, grid))


def _resized(descriptors: Tensor, grid: tuple[int, int]) -> Tensor:
    if descriptors.shape[1:3] == grid:
        return descriptors
    sized = resize_grid(descriptors, *grid, align_corners=False)
    return sized / sized.norm(dim=-1, keepdim=True).clamp_min(1e-12)
