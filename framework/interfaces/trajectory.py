"""ReferenceTrajectory: clean reference latent -> its latent at every sampling step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from framework.backbones.denoiser import Denoiser
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape
from framework.registry import Registry


class ReferenceTrajectory(Part, ABC):
    """Says which latent the reference branch shows the U-Net at each step.

    What a subclass declares: :meth:`invert`. The reference's latent is *set* from the result at
    every step, never integrated.
    """

    @abstractmethod
    def invert(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """Latents of the reference for all steps.

        Args:
            denoiser: the model with its sampling schedule, see
                :class:`framework.backbones.denoiser.Denoiser`; ``denoiser.timesteps`` and
                ``denoiser.alpha_bars`` belong to the T evaluations of sampling, noisiest first.
            clean: z0^X, (1, C, h, w).

        Returns:
            (T, 1, C, h, w), entry t belongs to step t.
        """

    def __call__(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """Invert, and check the result's shape.

        Raises:
            UserError: the shape is not what the contract says.
        """
        latents = self.invert(denoiser, clean)
        expected = (len(denoiser.timesteps), *clean.shape)
        check_shape(f"{type(self).__name__}.invert", latents, expected)
        return latents


#: Every trajectory by its name.
TRAJECTORIES = Registry(
    "trajectory",
    "framework.trajectories",
    ReferenceTrajectory,
    "reference image -> its latent at every step",
)
