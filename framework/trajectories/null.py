"""The clean reference at every step."""

from __future__ import annotations

from torch import Tensor

from framework.interfaces import TRAJECTORIES, Denoiser, ReferenceTrajectory


@TRAJECTORIES.register("null")
class NullTrajectory(ReferenceTrajectory):
    """The clean latent, without noise, at every step; costs no evaluation of the network.

    The network is told a noise level the latent does not have, so its features of the reference are
    out of distribution early on: the lower bound that real trajectories are compared with.
    """

    def invert(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """See :meth:`framework.interfaces.ReferenceTrajectory.invert`."""
        return clean.expand(len(denoiser.timesteps), *clean.shape)
