"""Noise levels: a latent is z = a z0 + s eps, whatever the family, and what follows from that.

Diffusion models have a = sqrt(abar) and s = sqrt(1 - abar), flow-matching models a = 1 - s. Every
function takes and gives tensors (B, C, h, w) and is exact for both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

#: What networks predict: the noise eps; the velocity v = a eps - s z0 of diffusion; the clean z0;
#: the velocity eps - z0 of flow matching.
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


class Level(NamedTuple):
    """How much of a latent is signal, and how much noise.

    Attributes:
        a: factor on z0, in [0, 1].
        s: factor on the noise, in [0, 1].
    """

    a: float
    s: float

    @classmethod
    def of_alpha_bar(cls, abar: float) -> Level:
        """The level of a diffusion model at abar in [0, 1]."""
        return cls(abar**0.5, (1 - abar) ** 0.5)

    @classmethod
    def of_flow(cls, s: float) -> Level:
        """The level of a flow-matching model at noise s in [0, 1]."""
        return cls(1 - s, s)

    @property
    def ratio(self) -> float:
        """r = s / a; infinite where nothing but noise is left."""
        return self.s / self.a if self.a > 0 else math.inf


def noisy(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    """z = a z0 + s eps, (B, C, h, w)."""
    return level.a * clean + level.s * noise


def to_eps(output: Tensor, latents: Tensor, level: Level, prediction: str) -> Tensor:
    """Noise eps (B, C, h, w) from a network's output of any of :data:`PREDICTIONS`."""
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return level.a * output + level.s * latents
    if prediction == "flow":
        return latents + level.a * output
    return (latents - level.a * output) / level.s


def from_eps(eps: Tensor, latents: Tensor, level: Level, prediction: str) -> Tensor:
    """Inverse of :func:`to_eps`, (B, C, h, w)."""
    if prediction == "epsilon":
        return eps
    if prediction == "v_prediction":
        return (eps - level.s * latents) / level.a
    if prediction == "flow":
        return (eps - latents) / level.a
    return (latents - level.s * eps) / level.a


def clean_from_eps(eps: Tensor, latents: Tensor, level: Level) -> Tensor:
    """z0_hat = (z - s eps) / a, (B, C, h, w)."""
    return (latents - level.s * eps) / level.a


def clean_from(output: Tensor, latents: Tensor, level: Level, prediction: str) -> Tensor:
    """z0_hat (B, C, h, w) from a network's output; defined at a = 0 where the type is."""
    if prediction == "epsilon":
        return clean_from_eps(output, latents, level)
    if prediction == "v_prediction":
        return level.a * latents - level.s * output
    if prediction == "flow":
        return latents - level.s * output
    return output


def move(eps: Tensor, latents: Tensor, level: Level, to: Level) -> Tensor:
    """Deterministic move to another level, either direction: a' z0_hat + s' eps, (B, C, h, w).

    DDIM's step for diffusion models, Euler's for flow matching.
    """
    return noisy(clean_from_eps(eps, latents, level), eps, to)
