"""A matcher that sees the descriptors of several steps."""

from __future__ import annotations

import torch

from framework import Needs, resize_features
from matchers.cycle_argmax import CycleArgmax


class MeanMatcher(CycleArgmax):
    """Matches by the mean similarity over the last three steps.

    The mean of cosine similarities is the similarity of the concatenated descriptors, so each step
    may have a basis of its own (the joint PCA's).
    """

    needs = Needs(history=3)
    context = None

    def begin_step(self, context):
        self.context = context

    def match(self, target, reference, masks):
        if self.context is not None and len(self.context.history) > 1:
            grid = target.shape[1:3]
            sized = [resize_features(features, *grid) for features in self.context.history]
            share = len(sized) ** -0.5
            target = torch.cat([features.target for features in sized], dim=-1) * share
            reference = torch.cat([features.reference for features in sized], dim=-1) * share
        return super().match(target, reference, masks)
