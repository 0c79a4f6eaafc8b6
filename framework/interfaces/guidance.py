"""Guidance: predicted clean target + warped clean reference -> correction of the noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from framework.interfaces.levels import Level
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape
from framework.registry import Registry
from framework.types import Correspondence, Masks, Reference


@dataclass(frozen=True)
class GuidanceInputs:
    """What a guided step knows, per pair.

    Attributes:
        latents: z_t of the targets, (B, C, h, w); when :attr:`Guidance.needs_gradient` is set it
            requires grad and ``eps`` was computed from it.
        eps: predicted noise before classifier-free guidance, (B, C, h, w).
        level: noise level of the latents, z = a z0 + s eps; a is above 0.
        reference_clean: z0^X beside each target, (B, C, h, w).
        correspondence: on the latent's grid (h, w), from the features of this step.
        masks: on the same grid.
        halves: 2 under classifier-free guidance: the first B / 2 pairs are the unconditional
            halves of the same targets as the last B / 2; else 1.
        step: step index t, 0 at noise.
        timestep: diffusion time.
        decode: maps latents (n, C, h, w) to images (n, 3, H_px, W_px), with gradient.
        reference: the prepared reference, with its picture.
    """

    latents: Tensor
    eps: Tensor
    level: Level
    reference_clean: Tensor
    correspondence: Correspondence
    masks: Masks
    halves: int = 1
    step: int = 0
    timestep: float = 0.0
    decode: Callable[[Tensor], Tensor] | None = None
    reference: Reference | None = None


class Guidance(Part, ABC):
    """Corrects the predicted noise of a step, for each half, before classifier-free guidance.

    What a subclass declares: :meth:`correct`, and the attributes below.
    """

    #: Whether an evaluation must be differentiable with respect to the targets' latents.
    needs_gradient: bool = False
    #: Whether attention outputs are detached while it is.
    detach_attention: bool = False

    @abstractmethod
    def active(self, step: int) -> bool:
        """Whether step ``step`` is guided."""

    @abstractmethod
    def correct(self, inputs: GuidanceInputs) -> Tensor:
        """Corrected noise, (B, C, h, w)."""

    def __call__(self, inputs: GuidanceInputs) -> Tensor:
        """Correct, and check the result's shape.

        Raises:
            UserError: the shape is not that of ``eps``.
        """
        eps = self.correct(inputs)
        check_shape(f"{type(self).__name__}.correct", eps, tuple(inputs.eps.shape))
        return eps


#: Every guidance by its name.
GUIDANCE = Registry(
    "guidance",
    "framework.guidance",
    Guidance,
    "predicted clean target + warped reference -> corrected noise",
)
