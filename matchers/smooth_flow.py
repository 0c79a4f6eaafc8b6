"""Any matcher, its flow smoothed by what it is confident of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from framework.interfaces import MATCHERS
from framework.options import PartConfig, option
from framework.types import Correspondence, Features, Masks, Views
from matchers.functional_smooth import voted_flow
from matchers.wrapper import Wrapper


@dataclass
class SmoothFlowConfig(PartConfig):
    """Options of :class:`SmoothFlow`."""

    matcher: Any = option(
        {"name": "cycle_argmax"},
        "the matcher whose flow is smoothed, with its options",
        part="matcher",
    )
    sigma: float = option(
        1.5,
        "reach of the smoothing, standard deviation in cells; the window is 2 sigma",
        low=0.1,
        high=8.0,
    )
    tolerance: float = option(
        1.5,
        "difference of two flows that counts as agreement, standard deviation in cells",
        low=0.05,
    )
    passes: int = option(1, "how often it is smoothed", low=1, high=20)
    fill: float = option(
        0.5,
        "how far neighbours that agree may raise a cell's confidence; 0: never, 1: fully",
        low=0.0,
        high=1.0,
    )


@MATCHERS.register("smooth_flow")
class SmoothFlow(Wrapper):
    """Any matcher, then a smoothing of its flow, weighted by confidence, that keeps edges.

    Each cell takes the mean of those flows around it that agree with each other most, each counted
    with its confidence: a stray match is outvoted, while the two sides of an occlusion do not mix.
    Confidence is s + (1 - fill) * min(0, c - s), with c the inner matcher's at the cell and s the
    support, the share of the neighbourhood's possible weight that agrees: a decision 0 / 1 becomes
    the probability that the neighbourhood sees it the same way, and where nothing around is
    confident, as in an occluded part, it stays low. Cost: the inner matcher's, and 25 K operations
    a cell and pass with K = (4 sigma + 1)^2 neighbours.
    """

    Config = SmoothFlowConfig

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`framework.interfaces.BaseMatcher.correspond`."""
        matches = self.inner(features, masks, views)
        flow, confidence = matches.flow, matches.confidence
        if not len(flow):
            return matches
        radius = max(1, round(2 * self.config.sigma))
        for _ in range(self.config.passes):
            voted = [
                voted_flow(one, weight, radius, self.config.sigma, self.config.tolerance)
                for one, weight in zip(flow, confidence, strict=True)
            ]
            flow = torch.stack([mean for mean, _ in voted])
            support = torch.stack([share for _, share in voted])
            lower = (confidence - support).clamp(max=0)
            confidence = support + (1 - self.config.fill) * lower
        return Correspondence(flow, confidence.clamp(0, 1))
