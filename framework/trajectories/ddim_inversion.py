"""DDIM inversion of the reference with the empty prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.interfaces import TRAJECTORIES, Denoiser, ReferenceTrajectory
from framework.interfaces.levels import move
from framework.runs.progress import progress


@TRAJECTORIES.register("ddim_inversion")
class DDIMInversion(ReferenceTrajectory):
    """DDIM inversion with the empty prompt, every latent kept (Song et al., ICLR 2021).

    The noise for the move to a later time is evaluated at that time with the earlier latent, one
    evaluation a step: with an empty prompt classifier-free guidance changes nothing.
    """

    def invert(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """See :meth:`framework.interfaces.ReferenceTrajectory.invert`."""
        condition = denoiser.condition("")
        latents, level = clean, denoiser.final_level
        collected: list[Tensor] = []
        steps = list(zip(denoiser.timesteps, denoiser.levels, strict=True))[::-1]
        for timestep, following in progress(steps, "inverting the reference"):
            if not collected or following != level:  # some schedulers evaluate a level twice
                eps = denoiser.eps(latents, timestep, condition, following)
                latents = move(eps, latents, level, following)
            level = following
            collected.append(latents)
        return torch.stack(collected[::-1])
