"""The reference noised directly to each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.interfaces import TRAJECTORIES, Denoiser, ReferenceTrajectory
from framework.interfaces.levels import noisy
from framework.options import PartConfig, option

#: Keeps this noise apart from the targets' start noise, which is drawn from small seeds too.
#: (A torch generator on the CPU looks at the lower 32 bits of a seed only.)
STREAM = 0x9E3779B9


@dataclass
class ForwardNoiseConfig(PartConfig):
    """Options of :class:`ForwardNoise`."""

    seed: int = option(0, "seed of the one noise used at every step", low=0)


@TRAJECTORIES.register("forward_noise")
class ForwardNoise(ReferenceTrajectory):
    """The clean latent noised to each step with one noise; costs no evaluation of the network."""

    Config = ForwardNoiseConfig

    def invert(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """See :meth:`framework.interfaces.ReferenceTrajectory.invert`."""
        generator = torch.Generator().manual_seed(STREAM + self.config.seed)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return torch.stack([noisy(clean, noise, level) for level in denoiser.levels])
