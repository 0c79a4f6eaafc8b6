"""The paper's matcher: cosine argmax, trusted where the match is cycle consistent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from framework.geometry import cycle_error
from framework.interfaces import MATCHERS, Matcher
from framework.options import PartConfig, option
from framework.types import Correspondence, Masks
from matchers.functional import argmax_flows_once


@dataclass
class CycleArgmaxConfig(PartConfig):
    """Options of :class:`CycleArgmax`."""

    cycle_threshold: float = option(
        0.4, "lambda_c of Eq. 8: permitted cycle error as a share of gamma", low=0.0, high=1.0
    )


@MATCHERS.register("cycle_argmax")
class CycleArgmax(Matcher):
    """Argmax of cosine similarity, confident where cycle consistent (the paper's, Eqs. 7 and 8).

    Confidence is a decision, 0 or 1: 1 where the cycle error, in cells, is strictly below
    ``cycle_threshold * gamma``, with gamma the grid's side times the target's foreground share.
    """

    Config = CycleArgmaxConfig

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        flow, reverse = argmax_flows_once(target, reference)
        gamma = target.shape[1] * masks.target.mean(dim=(1, 2), keepdim=True)
        confident = cycle_error(flow, reverse) < self.config.cycle_threshold * gamma
        return Correspondence(flow=flow, confidence=confident.to(target.dtype))
