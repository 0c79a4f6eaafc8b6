"""Soft argmax in a window around the best match: flows between cells, soft confidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.geometry import cell_grid
from framework.interfaces import MATCHERS, Matcher, Promises
from framework.options import PartConfig, option
from framework.types import Correspondence, Masks
from matchers.functional import similarities, soft_window


@dataclass
class SoftArgmaxConfig(PartConfig):
    """Options of :class:`SoftArgmax`."""

    temperature: float = option(
        0.05, "of the softmax over cosine similarities; lower is sharper and surer", low=1e-4
    )
    radius: int = option(
        1, "of the square window around the argmax, in cells; 0 is the argmax", low=0
    )


@MATCHERS.register("soft_argmax")
class SoftArgmax(Matcher):
    """Mean position around the best match under a softmax of the similarities, between cells too.

    Outside a window around the argmax nothing counts, so a second, distant peak does not pull the
    match into the middle. Confidence is a probability: of all reference cells, each weighted with
    exp(similarity / temperature), the share inside the window, that is the probability the softmax
    gives to a match within ``radius`` cells. The temperature calibrates it. Cost: every similarity
    once, in chunks.
    """

    Config = SoftArgmaxConfig
    promises = Promises(differentiable=True)

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        height, width = target.shape[1:3]
        flows, shares = [], []
        grid = cell_grid(height, width, target.device).flatten(0, 1)
        for one, other in zip(target.flatten(1, 2), reference.flatten(1, 2), strict=True):
            rows = [
                soft_window(part / self.config.temperature, height, width, self.config.radius)
                for part in similarities(one, other)
            ]
            flows.append(torch.cat([position for position, _ in rows]) - grid)
            shares.append(torch.cat([share for _, share in rows]))
        size = (len(target), height, width)
        if not flows:
            return Correspondence(target.new_zeros(*size, 2), target.new_zeros(size))
        return Correspondence(torch.stack(flows).view(*size, 2), torch.stack(shares).view(size))
