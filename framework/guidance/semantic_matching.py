"""Semantic matching guidance: pull the predicted clean target to the warped clean reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.geometry import warp
from framework.interfaces import GUIDANCE, Guidance, GuidanceInputs
from framework.interfaces.levels import clean_from_eps
from framework.options import PartConfig, option


@dataclass
class SemanticMatchingConfig(PartConfig):
    """Options of :class:`SemanticMatching`."""

    weight: float = option(75.0, "lambda_g", low=0.0)
    distance: str = option("l2", "distance g", choices=("l2", "mse"))
    gradient: str = option(
        "full",
        "through the whole network, or cut at attention outputs and at z_t",
        choices=("full", "no_attention"),
    )
    start_step: int = option(4, "first guided step (from 0, absolute)", low=0)
    end_step: int | None = option(None, "step before which guidance stops; null: the last", low=1)


def masked_distance(
    predicted: Tensor, warped: Tensor, weight: Tensor, kind: str, halves: int = 1
) -> Tensor:
    """Distance g per pair.

    Args:
        predicted: z0_hat^Y, (B, C, h, w).
        warped: warp(z0^X, F), (B, C, h, w).
        weight: M' = M^Y * U, (B, h, w).
        kind: ``l2``: mean over M' of the norm over channels (Eq. 9); ``mse``: sum of the squared
            weighted difference over the sum of the weights, counted once per channel, with one
            normaliser for the two halves of a target (METHOD.md, section 7.10).
        halves: 2 where the pairs are [unconditional, conditional] of the same targets.

    Returns:
        (B,), 0 where no cell has weight. No pair depends on another target's.
    """
    difference = warped - predicted
    if kind == "l2":
        norm = (difference.square().sum(dim=1) + 1e-12).sqrt()
        return (weight * norm).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1e-6)
    spread = weight[:, None].expand_as(difference)
    squared = (spread * difference).square().sum(dim=(1, 2, 3))
    normaliser = spread.sum(dim=(1, 2, 3)).unflatten(0, (halves, -1)).sum(dim=0)
    return squared / normaliser.clamp_min(1e-6).repeat(halves)


@GUIDANCE.register("semantic_matching")
class SemanticMatching(Guidance):
    """Descends the masked distance of the predicted clean target to the warped clean reference.

    eps <- eps + weight * s * dg/dz_t: adding the gradient to the noise moves
    z0_hat = (z_t - s eps) / a *against* it, so g falls. With ``gradient:
    no_attention`` z0_hat is formed with a detached z_t and the gradient is cut at every attention
    output, as the released program does, which turns its sign; there it is subtracted.
    """

    Config = SemanticMatchingConfig
    needs_gradient = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.truncated = self.config.gradient == "no_attention"
        self.detach_attention = self.truncated
        end = self.config.end_step
        if end is not None and end <= self.config.start_step:
            raise UserError(
                f"guidance.end_step is {end}; expected more than start_step "
                f"({self.config.start_step})."
            )

    def active(self, step: int) -> bool:
        """Within [start_step, end_step), unless the weight is 0."""
        end = self.config.end_step
        inside = step >= self.config.start_step and (end is None or step < end)
        return inside and self.config.weight > 0

    def correct(self, inputs: GuidanceInputs) -> Tensor:
        """See :meth:`framework.interfaces.Guidance.correct`."""
        latents = inputs.latents.detach() if self.truncated else inputs.latents
        predicted = clean_from_eps(inputs.eps, latents, inputs.level)
        warped = warp(inputs.reference_clean, inputs.correspondence.flow)
        weight = inputs.correspondence.confidence * inputs.masks.target
        distance = masked_distance(
            predicted.float(),
            warped.float(),
            weight.float(),
            self.config.distance,
            inputs.halves,
        )
        gradient = torch.autograd.grad(distance.sum(), inputs.latents)[0]
        sign = -1.0 if self.truncated else 1.0
        return inputs.eps.detach() + sign * self.config.weight * inputs.level.s * gradient.to(
            inputs.eps.dtype
        )
