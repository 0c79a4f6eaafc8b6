"""A matcher that knows the step and the matches of the step before."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from framework import Correspondence, PartConfig, option
from matchers.cycle_argmax import CycleArgmax


@dataclass
class SteadyConfig(PartConfig):
    """Options of :class:`SteadyMatcher`."""

    cycle_threshold: float = option(0.4, "see cycle_argmax")
    settle: int = option(2, "step from which on earlier matches are kept", low=1)


class SteadyMatcher(CycleArgmax):
    """Cycle-consistent matches; from a step on, a cell keeps its earlier match where the new one is
    not more confident."""

    Config = SteadyConfig
    context = None

    def begin_step(self, context):
        self.context = context

    def match(self, target, reference, masks):
        fresh = super().match(target, reference, masks)
        context = self.context
        if context is None or context.index < self.config.settle:
            return fresh
        earlier = context.matches.get(tuple(fresh.flow.shape[1:3]))
        if earlier is None:
            return fresh
        keep = earlier.confidence >= fresh.confidence
        return Correspondence(
            torch.where(keep[..., None], earlier.flow, fresh.flow),
            torch.where(keep, earlier.confidence, fresh.confidence),
        )
