"""Argmax of similarity after each picture's mean descriptor is taken away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from framework import MATCHERS, Correspondence, Masks, Matcher, PartConfig, cycle_error, option
from matchers.functional import argmax_flow


@dataclass
class CentredConfig(PartConfig):
    """Options of :class:`Centred`; `dreammatcher list matcher` shows them."""

    reach: float = option(2.0, "cycle error, in cells, at which confidence is 0.37", low=0.01)


@MATCHERS.register("centred")
class Centred(Matcher):
    """Argmax after subtracting each picture's mean; confidence falls off with the cycle error.

    Confidence is exp(-e / reach), with e the cycle error in cells: 1 where following the match
    there and back leads to the same cell.
    """

    Config = CentredConfig

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        target, reference = (
            normalize(grid - grid.mean(dim=(1, 2), keepdim=True), dim=-1)
            for grid in (target, reference)
        )
        flow, reverse = argmax_flow(target, reference), argmax_flow(reference, target)
        confidence = torch.exp(-cycle_error(flow, reverse) / self.config.reach)
        return Correspondence(flow=flow, confidence=confidence)
