"""Null-text inversion (Mokady et al., CVPR 2023): text embeddings for each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from framework import PartConfig, ReferenceTrajectory, Trajectory, option
from framework.interfaces import Condition
from framework.interfaces.levels import move
from framework.trajectories.ddim_inversion import DDIMInversion


@dataclass
class NullTextConfig(PartConfig):
    """Options of :class:`NullText`."""

    iterations: int = option(2, "gradient steps for each sampling step", low=1)
    rate: float = option(0.01, "their size", low=0.0)


class NullText(ReferenceTrajectory):
    """DDIM inversion, and for each step the unconditional embedding that leads to the next latent
    of the inversion."""

    Config = NullTextConfig

    def invert(self, denoiser, clean):
        latents, empty = DDIMInversion()(denoiser, clean), denoiser.condition("")
        levels = [*denoiser.levels, denoiser.final_level]
        wanted = [*latents[1:], clean]
        embeds, found = empty.embeds, []
        for index, timestep in enumerate(denoiser.timesteps):
            for _ in range(self.config.iterations):
                with torch.enable_grad():
                    embeds = embeds.detach().requires_grad_()
                    shown = Condition(embeds, empty.added)
                    output = denoiser.model.denoise(latents[index], timestep, shown)
                    eps = denoiser.schedule.to_eps(output, latents[index], levels[index])
                    after = move(eps, latents[index], levels[index], levels[index + 1])
                    (gradient,) = torch.autograd.grad(
                        (after - wanted[index]).square().sum(), embeds
                    )
                embeds = embeds.detach() - self.config.rate * gradient
            found.append(embeds.detach())
        return Trajectory(latents, embeds={"unconditional": torch.stack(found)})
