"""DDIM inversion of the reference with the empty prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.backbones.denoiser import Denoiser
from framework.backbones.schedule import ddim_step
from framework.interfaces import TRAJECTORIES, ReferenceTrajectory
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
        latents, abar = clean, denoiser.final_alpha_bar
        collected: list[Tensor] = []
        steps = list(zip(denoiser.timesteps, denoiser.alpha_bars, strict=True))[::-1]
        for timestep, abar_next in progress(steps, "inverting the reference"):
            if not collected or abar_next != abar:  # some schedulers evaluate a level twice
                eps = denoiser.eps(latents, timestep, condition, abar_next)
                latents = ddim_step(eps, latents, abar, abar_next)
            abar = abar_next
            collected.append(latents)
        return torch.stack(collected[::-1])
