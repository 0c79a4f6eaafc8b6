"""A trajectory that makes a reference of every picture of the concept."""

from __future__ import annotations

from framework.trajectories.ddim_inversion import DDIMInversion


class EveryPicture(DDIMInversion):
    """Each picture is inverted, enters every step, and is matched on its own."""

    def pictures(self, count, index):
        return range(count)
