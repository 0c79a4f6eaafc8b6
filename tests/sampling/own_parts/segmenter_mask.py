"""A mask from pictures: any segmenter serves both sides."""

from __future__ import annotations

import torch

from framework import MaskProvider, Masks, resize_mask


def segment(pictures: torch.Tensor) -> torch.Tensor:
    """A stand-in for a network: what is brighter than the picture's mean.

    Args:
        pictures: (n, 3, H, W) in [-1, 1].

    Returns:
        (n, H, W) in {0, 1}.
    """
    grey = pictures.float().mean(dim=1)
    return (grey > grey.mean(dim=(1, 2), keepdim=True)).float()


class SegmenterMask(MaskProvider):
    """The segmented reference, and the segmented prediction of the step before."""

    def begin_step(self, context):
        self._reference = segment(context.reference.image)
        before = context.before
        self._target = None if before is None else segment(before.pictures)

    def masks(self, height, width, pairs):
        reference = resize_mask(self._reference, height, width).expand(pairs, -1, -1)
        if self._target is None:
            return Masks(torch.ones_like(reference), reference)
        return Masks(resize_mask(self._target, height, width), reference)
