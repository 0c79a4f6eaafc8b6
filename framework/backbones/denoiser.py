"""A model together with its sampling schedule: what a reference trajectory works with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from framework.backbones.schedule import alpha_bar, clean_from, final_alpha_bar, levels_of, to_eps
from framework.interfaces.backbone import Backbone, Condition


@dataclass(frozen=True)
class Denoiser:
    """One sampling schedule of one model.

    Attributes:
        model: the pipeline.
        scheduler: the sampling scheduler, its timesteps set.
        timesteps: diffusion time of each of the T evaluations, noisiest first; not always whole
            numbers, and with some schedulers twice the same.
        height: image height in pixels.
        width: image width.
    """

    model: Backbone
    scheduler: Any
    timesteps: list[float]
    height: int
    width: int

    @property
    def prediction_type(self) -> str:
        """``epsilon``, ``v_prediction`` or ``sample``."""
        return str(self.scheduler.config.prediction_type)

    @cached_property
    def alpha_bars(self) -> list[float]:
        """abar in (0, 1) of each of the T evaluations, beside :attr:`timesteps`."""
        return levels_of(self.scheduler)

    def alpha_bar(self, timestep: float) -> float:
        """abar_t in (0, 1) of one of :attr:`timesteps`, or of another time of the model."""
        if timestep in self.timesteps:
            return self.alpha_bars[self.timesteps.index(timestep)]
        return alpha_bar(self.scheduler, timestep)

    @property
    def final_alpha_bar(self) -> float:
        """abar at which sampling ends."""
        return final_alpha_bar(self.scheduler)

    def condition(self, prompt: str) -> Condition:
        """Text condition of one prompt, one row."""
        return self.model.encode_plain(prompt, self.height, self.width)

    @torch.no_grad()
    def eps(
        self, latents: Tensor, timestep: float, condition: Condition, abar: float | None = None
    ) -> Tensor:
        """Predicted noise, whatever the checkpoint predicts; (rows, C, h, w).

        Args:
            latents: z_t, (rows, C, h, w).
            timestep: diffusion time.
            condition: text condition of the rows.
            abar: the latents' level; None is that of the time.
        """
        output = self.model.denoise(latents, timestep, condition)
        self.model.require_finite(output, self.model.network, "The network's values")
        level = self.alpha_bar(timestep) if abar is None else abar
        return to_eps(output, latents, level, self.prediction_type)

    def clean(self, output: Tensor, latents: Tensor, timestep: float) -> Tensor:
        """z0_hat from a raw model output, (rows, C, h, w)."""
        return clean_from(output, latents, self.alpha_bar(timestep), self.prediction_type)
