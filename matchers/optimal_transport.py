"""Entropic optimal transport: cells compete for their matches, and may have none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.geometry import cell_grid
from framework.interfaces import MATCHERS, Matcher, Promises
from framework.options import PartConfig, option
from framework.types import Correspondence, Masks
from matchers.functional import soft_window
from matchers.functional_transport import logits_in_blocks, sinkhorn


@dataclass
class OptimalTransportConfig(PartConfig):
    """Options of :class:`OptimalTransport`."""

    epsilon: float = option(
        0.05, "strength of the entropy, on cosine similarities; lower is sharper", low=1e-4
    )
    dustbin: float = option(
        0.4, "similarity below which a cell would rather have no match", low=-1.0, high=1.0
    )
    iterations: int = option(20, "of alternating normalisation", low=1)
    radius: int = option(
        1, "window around the best cell in which the position is averaged; 0: none", low=0
    )


@MATCHERS.register("optimal_transport")
class OptimalTransport(Matcher):
    """Sinkhorn's transport of target cells onto reference cells, with a dustbin for the unmatched.

    Each cell has one unit of mass, so two target cells cannot both claim one reference cell
    entirely. The match is where most of a cell's mass goes, averaged over a window. Confidence is
    the share of the cell's mass that reaches the reference instead of the dustbin: the probability,
    under the plan, that the cell has a match at all. Cost: ``2 * iterations`` passes over every
    similarity; they are kept up to 2048 x 2048 cells and computed anew in chunks above.
    """

    Config = OptimalTransportConfig
    promises = Promises(differentiable=True)

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        height, width = target.shape[1:3]
        grid = cell_grid(height, width, target.device).flatten(0, 1)
        flows, masses = [], []
        for one, other in zip(target.flatten(1, 2), reference.flatten(1, 2), strict=True):
            position, mass = self._pair(one, other, height, width)
            flows.append(position - grid)
            masses.append(mass)
        size = (len(target), height, width)
        if not flows:
            return Correspondence(target.new_zeros(*size, 2), target.new_zeros(size))
        return Correspondence(torch.stack(flows).view(*size, 2), torch.stack(masses).view(size))

    def _pair(
        self, target: Tensor, reference: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Positions (N, 2) and transported masses (N,) of one pair."""
        config = self.config
        blocks = logits_in_blocks(target, reference, config.epsilon)
        dustbin = config.dustbin / config.epsilon
        u, v, column_bin = sinkhorn(
            blocks, len(target), len(reference), dustbin, config.iterations, target
        )
        positions = [soft_window(part + v, height, width, config.radius)[0] for part in blocks()]
        mass = 1 - (dustbin + u + column_bin).exp()
        return torch.cat(positions), mass.clamp(0, 1)
