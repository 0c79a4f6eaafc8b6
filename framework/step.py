"""What one U-Net evaluation leaves behind for the parts that look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from framework.types import Layout, Reference


@dataclass(frozen=True)
class StepOutputs:
    """Result of one U-Net evaluation with both branches.

    Attributes:
        index: step index t, 0 at noise.
        timestep: diffusion time.
        layout: order of the rows (see :class:`framework.types.Layout`).
        reference: the prepared reference.
        target_clean: z0_hat^Y per pair, (B, C, h, w).
        reference_clean: z0_hat^X per half, (halves, C, h, w).
        decode: maps latents (n, C, h, w) to images (n, 3, H_px, W_px) in [-1, 1].
    """

    index: int
    timestep: int
    layout: Layout
    reference: Reference
    target_clean: Tensor
    reference_clean: Tensor
    decode: Callable[[Tensor], Tensor]
