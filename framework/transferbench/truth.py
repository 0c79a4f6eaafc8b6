"""Parts that know the truth: what a perfect mask and a perfect matcher would say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.interfaces import BaseMatcher, MaskProvider, Needs
from framework.types import Correspondence, Features, Masks, Views
from matchers.functional import resize_correspondence


class TrueMasks(MaskProvider):
    """Hands on the rendered masks of the targets of one call and of their reference.

    Args:
        target: (N, S, S), bool or in [0, 1].
        reference: (S, S), likewise.
    """

    def __init__(self, target: Tensor, reference: Tensor) -> None:
        self.target, self.reference = target.float(), reference.float()[None]

    def masks(self, height: int, width: int, pairs: int) -> Masks:
        """The object's share of each cell; see :meth:`framework.interfaces.MaskProvider.masks`."""
        target, reference = (
            F.adaptive_avg_pool2d(mask[:, None], (height, width))[:, 0]
            for mask in (self.target, self.reference)
        )
        return Masks(target.repeat(pairs // len(target), 1, 1), reference.expand(pairs, -1, -1))


class TrueMatches(BaseMatcher):
    """Hands on the true correspondence of the targets of one call, on any grid.

    The flow of a cell is the mean over its pixels' known matches, its confidence the share of its
    pixels that the reference shows.

    Args:
        truth: on the pixel grid, flow (N, S, S, 2), confidence (N, S, S).
    """

    needs = Needs(features=False)

    def __init__(self, truth: Correspondence) -> None:
        self.truth = truth

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`framework.interfaces.BaseMatcher.correspond`."""
        pairs, height, width = masks.target.shape
        known = resize_correspondence(self.truth, height, width)
        times = pairs // len(known.flow)
        return Correspondence(
            known.flow.repeat(times, 1, 1, 1), known.confidence.repeat(times, 1, 1)
        )


def identity_matches(mask: Tensor) -> Correspondence:
    """Every pixel of the object matches itself.

    Args:
        mask: (N, S, S).

    Returns:
        Flow 0, (N, S, S, 2); confidence 1 on the object, (N, S, S).
    """
    return Correspondence(torch.zeros(*mask.shape, 2), mask.float())
