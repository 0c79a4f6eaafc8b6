"""A mask made of descriptors and matches of the step before."""

from __future__ import annotations

import torch

from framework import MaskProvider, Masks, resize_features, resize_mask


class MatchedMask(MaskProvider):
    """Where the step before was matched with confidence; before any match, where the target has a
    cell in the reference that is more like it than cells are on average."""

    history = 1

    def begin_step(self, context):
        self._matches, self._history = context.matches, context.history

    def masks(self, height, width, pairs):
        if self._matches:
            finest = max(self._matches.values(), key=lambda matches: matches.flow.shape[1])
            target = resize_mask(finest.confidence, height, width)
        elif self._history:
            features = resize_features(self._history[0], height, width)
            likeness = features.target.flatten(1, 2) @ features.reference.flatten(1, 2).mT
            best = likeness.amax(dim=-1)
            target = (best >= best.mean(dim=-1, keepdim=True)).float().unflatten(1, (height, width))
        else:
            target = torch.ones(pairs, height, width)
        return Masks(target, torch.ones_like(target))
