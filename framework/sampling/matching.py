"""Descriptors, masks and matches of one reference in one sampling call."""

from __future__ import annotations

import torch

from framework.geometry import resize_features
from framework.interfaces import BaseMatcher
from framework.interfaces.step import StepOutputs, make_views
from framework.sampling.plan import Parts
from framework.types import Correspondence, Features, Layout, Masks, Views


class Matching:
    """What the layers of a step are matched with, and their matches: once a step and grid.

    Args:
        parts: extractor, mask provider and matcher are used.
        layout: order of the target rows.

    Attributes:
        features: descriptors to match with; None before the first are made, or if none are needed.
        views: pictures to match with, for matchers that ask for them.
        history: descriptors of the steps so far with their index, the latest first; as many as a
            part asks for.
        before: matches of the step before, by grid.
    """

    def __init__(self, parts: Parts, layout: Layout) -> None:
        self.parts, self.layout = parts, layout
        self.features: Features | None = None
        self.views: Views | None = None
        self.history: list[tuple[int, Features]] = []
        self.before: dict[tuple[int, int], Correspondence] = {}
        self._viewed = 0
        self._flows: dict[tuple[int, int, int], Correspondence] = {}
        self._sized: dict[tuple[int, int], Features] = {}

    def begin_step(self) -> None:
        """Begin a step: the last matches of each grid are now those of the step before."""
        self.before = {(h, w): matches for (h, w, _), matches in self._flows.items()}

    def begin_evaluation(self) -> None:
        """Begin an evaluation, in which nothing has been matched yet."""
        self._flows = {}

    @torch.no_grad()
    def describe(self, step: StepOutputs) -> None:
        """Make descriptors and pictures of a step that has just been evaluated."""
        matcher = self.parts.matcher
        if matcher.needs.features:
            self.features, self._sized = self.parts.extractor(step), {}
            earlier = [entry for entry in self.history if entry[0] != step.index]
            kept = max(matcher.needs.history, self.parts.mask.history)
            self.history = [(step.index, self.features), *earlier][:kept]
        if matcher.needs.pictures:
            fresh = self.views is None or step.index - self._viewed >= matcher.needs.every
            if fresh:
                self.views, self._viewed = make_views(step), step.index

    def masks(self, grid: tuple[int, int]) -> Masks:
        """Masks (B, H, W) on a grid, from what the provider has seen so far in this step."""
        return self.parts.mask(*grid, self.layout.pairs)

    def correspondence(self, grid: tuple[int, int]) -> Correspondence:
        """Matches on a grid; computed once per step, grid and state of the masks."""
        key = (*grid, self.parts.mask.version)
        if key not in self._flows:
            self._flows[key] = self.match(grid, self.masks(grid))
        return self._flows[key]

    def match(self, grid: tuple[int, int], masks: Masks) -> Correspondence:
        """Match on a grid, without gradient, whatever was matched before."""
        with torch.no_grad():
            return self.parts.matcher(self._on_grid(grid), masks, self.views)

    def _on_grid(self, grid: tuple[int, int]) -> Features | None:
        """The descriptors on a grid: one object for as long as they stay the same."""
        if self.features is None:
            return None
        if grid not in self._sized:
            self._sized[grid] = resize_features(self.features, *grid)
        return self._sized[grid]


def match_on_grid(
    features: Features | None,
    masks: Masks,
    grid: tuple[int, int],
    matcher: BaseMatcher,
    views: Views | None = None,
) -> Correspondence:
    """Resize descriptors to a grid, normalise them again, and match.

    Args:
        features: descriptors on any grid, (B, h, w, D); None if the matcher needs none.
        masks: masks on ``grid``, (B, H, W).
        grid: (H, W).
        matcher: the matcher.
        views: pictures or truth, for matchers that need them.
    """
    return matcher(None if features is None else resize_features(features, *grid), masks, views)
