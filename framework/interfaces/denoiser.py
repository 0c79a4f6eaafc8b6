"""A model together with its sampling schedule: what a reference trajectory works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.interfaces.backbone import Backbone, Condition
from framework.interfaces.levels import Level
from framework.interfaces.schedule import Schedule


@dataclass(frozen=True)
class Denoiser:
    """One model that samples in one way, at one size.

    Attributes:
        model: the pipeline.
        schedule: the noise levels, and the scheduler that moves along them.
        height: image height in pixels.
        width: image width.
    """

    model: Backbone
    schedule: Schedule
    height: int
    width: int

    @property
    def scheduler(self) -> Any:
        """See :class:`framework.interfaces.schedule.Schedule`."""
        return self.schedule.scheduler

    @property
    def timesteps(self) -> Sequence[float]:
        """Diffusion time of each of the T evaluations of sampling, noisiest first."""
        return self.schedule.timesteps

    @property
    def levels(self) -> Sequence[Level]:
        """Noise level (a, s) of each of the T evaluations, beside :attr:`timesteps`."""
        return self.schedule.levels

    @property
    def final_level(self) -> Level:
        """Noise level at which sampling ends."""
        return self.schedule.final_level

    def level(self, timestep: float) -> Level:
        """Noise level of one of :attr:`timesteps`, or of another time of the model.

        Raises:
            UserError: the model has no such time.
        """
        return self.schedule.level(timestep)

    def condition(self, prompt: str) -> Condition:
        """Text condition of one prompt, one row."""
        return self.model.encode_plain(prompt, self.height, self.width)

    @torch.no_grad()
    def eps(
        self, latents: Tensor, timestep: float, condition: Condition, level: Level | None = None
    ) -> Tensor:
        """Predicted noise, whatever the checkpoint predicts; (rows, C, h, w).

        Args:
            latents: z_t, (rows, C, h, w).
            timestep: diffusion time.
            condition: text condition of the rows.
            level: the latents' noise level; None is that of the time.
        """
        output = self.model.denoise(latents, timestep, condition)
        shown = self.level(timestep) if level is None else level
        return self.schedule.to_eps(output, latents, shown)

    def clean(self, output: Tensor, latents: Tensor, timestep: float) -> Tensor:
        """z0_hat from a raw network output, (rows, C, h, w)."""
        return self.schedule.clean(output, latents, timestep)
