"""The noise levels that sampling passes, and the scheduler that moves along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from framework.interfaces.levels import Level, clean_from, from_eps, to_eps


@dataclass(frozen=True)
class Schedule:
    """One way of sampling with a model of any family.

    Attributes:
        scheduler: has ``timesteps``, ``init_noise_sigma``, ``scale_model_input(latents, time)``,
            ``step(output, time, latents, return_dict=False)`` and ``config`` as diffusers'
            schedulers, its timesteps set.
        timesteps: diffusion time of each of the T evaluations, noisiest first; not always whole
            numbers, and with some schedulers twice the same.
        levels: noise level of what each evaluation is shown, beside :attr:`timesteps`.
        final_level: where sampling ends.
        level_at: the level of any other diffusion time of the model; refuses a time it has not.
        prediction: what the network predicts, one of
            :data:`framework.interfaces.levels.PREDICTIONS`.
    """

    scheduler: Any
    timesteps: Sequence[float]
    levels: Sequence[Level]
    final_level: Level
    level_at: Callable[[float], Level]
    prediction: str

    def level(self, timestep: float) -> Level:
        """Noise level of one of :attr:`timesteps`, or of another time of the model.

        Raises:
            UserError: the model has no such time.
        """
        if timestep in self.timesteps:
            return self.levels[self.timesteps.index(timestep)]
        return self.level_at(timestep)

    def to_eps(self, output: Tensor, latents: Tensor, level: Level) -> Tensor:
        """Noise from a raw network output, (rows, C, h, w)."""
        return to_eps(output, latents, level, self.prediction)

    def from_eps(self, eps: Tensor, latents: Tensor, level: Level) -> Tensor:
        """Inverse of :meth:`to_eps`, (rows, C, h, w)."""
        return from_eps(eps, latents, level, self.prediction)

    def clean(self, output: Tensor, latents: Tensor, timestep: float) -> Tensor:
        """z0_hat from a raw network output, (rows, C, h, w)."""
        return clean_from(output, latents, self.level(timestep), self.prediction)
