"""No guidance."""

from __future__ import annotations

from torch import Tensor

from framework.interfaces import GUIDANCE, Guidance, GuidanceInputs


@GUIDANCE.register("none")
class NoGuidance(Guidance):
    """Leaves the predicted noise alone."""

    def active(self, step: int) -> bool:
        """Never."""
        return False

    def correct(self, inputs: GuidanceInputs) -> Tensor:
        """Return ``eps``."""
        return inputs.eps
