"""A model together with its sampling schedule: what a reference trajectory works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.model import Condition, TextToImageModel
from framework.schedule import alpha_bar, clean_from, final_alpha_bar, to_eps


@dataclass(frozen=True)
class Denoiser:
    """One sampling schedule of one model.

    Attributes:
        model: the pipeline.
        scheduler: the sampling scheduler, its timesteps set.
        timesteps: T diffusion times, noisiest first.
        height: image height in pixels.
        width: image width.
    """

    model: TextToImageModel
    scheduler: Any
    timesteps: list[int]
    height: int
    width: int

    @property
    def prediction_type(self) -> str:
        """``epsilon``, ``v_prediction`` or ``sample``."""
        return str(self.scheduler.config.prediction_type)

    def alpha_bar(self, timestep: int) -> float:
        """abar_t in (0, 1)."""
        return alpha_bar(self.scheduler, timestep)

    @property
    def final_alpha_bar(self) -> float:
        """abar at which sampling ends."""
        return final_alpha_bar(self.scheduler)

    def condition(self, prompt: str) -> Condition:
        """Text condition of one prompt, one row."""
        return self.model.encode_plain(prompt, self.height, self.width)

    @torch.no_grad()
    def eps(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """Predicted noise, whatever the checkpoint predicts; (rows, C, h, w)."""
        output = self.model.denoise(latents, timestep, condition)
        return to_eps(output, latents, self.alpha_bar(timestep), self.prediction_type)

    def clean(self, output: Tensor, latents: Tensor, timestep: int) -> Tensor:
        """z0_hat from a raw model output, (rows, C, h, w)."""
        return clean_from(output, latents, self.alpha_bar(timestep), self.prediction_type)
