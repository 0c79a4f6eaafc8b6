"""An injector that acts in some layers only, and only below some noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from framework import Injector, InjectorConfig, option
from framework.geometry import resize_mask
from framework.injectors.functional import attention, blend, warp_tokens


@dataclass
class LateConfig(InjectorConfig):
    """Options of :class:`LateLayers`."""

    only: str = option("up_blocks.3.", "a layer is used if its path begins like this")
    noise: float = option(0.9, "highest noise level s at which it acts", low=0.0, high=1.0)


class LateLayers(Injector):
    """Warped values in the finest layers, once the noise is below a level.

    A value counts where the coarsest layer matched in this step was confident as well, and where
    the prompt's concept gets more attention than it does on average.
    """

    Config = LateConfig
    uses = ("value", "hidden_state", "cross_attention")

    def attend(self, inputs, correspondence, masks):
        if not inputs.layer.startswith(self.config.only) or inputs.noise > self.config.noise:
            return attention(inputs.query, inputs.key, inputs.value, inputs.scale)
        weight = correspondence.confidence * masks.target
        if inputs.matches:
            coarsest = min(inputs.matches.values(), key=lambda matches: matches.flow.shape[1])
            weight = weight * resize_mask(coarsest.confidence, *inputs.grid)
        if "cross_attention" in inputs.target:
            maps, tokens = inputs.target["cross_attention"], inputs.tokens["target"]
            pairs = zip(maps, tokens, strict=True)
            drawn = torch.stack([rows[:, chosen].mean(dim=-1) for rows, chosen in pairs])
            above = drawn > drawn.mean(dim=-1, keepdim=True)
            weight = weight * above.unflatten(1, inputs.grid)
        warped = warp_tokens(inputs.reference["value"], correspondence.flow)
        value = blend(warped, inputs.value, weight)
        return attention(inputs.query, inputs.key, value, inputs.scale)
