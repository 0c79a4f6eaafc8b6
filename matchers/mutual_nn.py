"""Mutual nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.interfaces import MATCHERS, Matcher
from framework.options import PartConfig, option
from framework.types import Correspondence, Masks
from matchers.functional import cells, mutual_neighbours


@dataclass
class MutualNNConfig(PartConfig):
    """Options of :class:`MutualNN`."""

    tolerance: float = option(0.0, "cells by which the way back may miss where it set out", low=0.0)


@MATCHERS.register("mutual_nn")
class MutualNN(Matcher):
    """Argmax of cosine similarity, trusted where the reference's cell chooses the target's in turn.

    Confidence is a decision, 0 or 1: 1 where the most similar target cell of the matched reference
    cell is the cell itself, or at most ``tolerance`` cells from it. Unlike ``cycle_argmax`` it
    looks at no mask. Cost: every similarity once, in chunks.
    """

    Config = MutualNNConfig

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        height, width = target.shape[1:3]
        there, back = mutual_neighbours(target.flatten(1, 2), reference.flatten(1, 2))
        returned = back.gather(1, there)
        own = torch.arange(height * width, device=returned.device)
        missed = torch.stack(
            [returned % width - own % width, returned // width - own // width], dim=-1
        )
        mutual = missed.float().norm(dim=-1) <= self.config.tolerance
        confidence = mutual.unflatten(1, (height, width)).to(target.dtype)
        return Correspondence(cells(there, height, width), confidence)
