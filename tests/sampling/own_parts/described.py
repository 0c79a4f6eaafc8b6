"""A trajectory with a prompt of its own."""

from __future__ import annotations

from framework import Trajectory
from framework.trajectories.forward_noise import ForwardNoise


class Described(ForwardNoise):
    """The reference noised to each step, and described as what it is: on the snow, in the photo."""

    def invert(self, denoiser, clean):
        return Trajectory(super().invert(denoiser, clean), prompt="a {} on the snow")
