"""The denoising loss, in whatever quantity the checkpoint predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.backbones.schedule import make_scheduler
from framework.training.data import Batch


@dataclass(frozen=True)
class Objective:
    """Mean squared error of the model's output, optionally with min-SNR weights.

    Attributes:
        alpha_bar: abar_t for every diffusion time, (T,), float32 on the CPU.
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``.
        min_snr: gamma of Hang et al. 2023 (5 there), or None for equal weights.
    """

    alpha_bar: Tensor
    prediction_type: str
    min_snr: float | None = None

    @classmethod
    def of(cls, pipe: Any, min_snr: float | None = None, prediction: str = "auto") -> Objective:
        """The objective of a pipeline's noise schedule.

        Args:
            pipe: the pipeline.
            min_snr: see the class.
            prediction: a prediction type, or ``auto`` for the one its scheduler names.

        Raises:
            UserError: its prediction type is not supported.
        """
        scheduler = make_scheduler("DDIMScheduler", pipe.scheduler)
        own = scheduler.config.prediction_type
        return cls(
            scheduler.alphas_cumprod.float().cpu(),
            own if prediction == "auto" else prediction,
            min_snr,
        )

    def noisy(self, batch: Batch) -> Tensor:
        """z_t = sqrt(abar) z_0 + sqrt(1 - abar) eps, (b, C, h, w)."""
        abar = self._abar(batch)
        return abar.sqrt() * batch.latents + (1 - abar).sqrt() * batch.noise

    def target(self, batch: Batch) -> Tensor:
        """What the model should put out, (b, C, h, w)."""
        if self.prediction_type == "epsilon":
            return batch.noise
        if self.prediction_type == "sample":
            return batch.latents
        abar = self._abar(batch)
        return abar.sqrt() * batch.noise - (1 - abar).sqrt() * batch.latents

    def weights(self, batch: Batch) -> Tensor:
        """Weight of every element, (b,)."""
        abar = self._abar(batch).flatten()
        if self.min_snr is None:
            return torch.ones_like(abar)
        snr = abar / (1 - abar)
        capped = snr.clamp_max(self.min_snr)
        if self.prediction_type == "sample":
            return capped
        if self.prediction_type == "v_prediction":
            return capped / (snr + 1)
        return (self.min_snr / snr).clamp_max(1.0)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Scalar float32 loss of a model output (b, C, h, w)."""
        error = (output.float() - self.target(batch).float()).square()
        if batch.valid is None:
            error = error.mean(dim=(1, 2, 3))
        else:
            cells = batch.valid.sum(dim=(1, 2, 3)).clamp_min(1.0)
            error = (error.mean(dim=1, keepdim=True) * batch.valid).sum(dim=(1, 2, 3)) / cells
        weighted = self.weights(batch) * error
        return weighted.mean() if batch.shares is None else (batch.shares * weighted).sum()

    def _abar(self, batch: Batch) -> Tensor:
        table = self.alpha_bar.to(batch.latents.device)
        return table[batch.timesteps][:, None, None, None]
