"""What one U-Net evaluation leaves behind for the parts that look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from framework.types import Correspondence, Layout, Reference, Views


def _not_given(*args: object) -> NoReturn:
    raise RuntimeError("this StepOutputs was made without a way to evaluate the U-Net again")


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
        alpha_bar: maps a diffusion time to abar_t in (0, 1); refuses a time the model has not.
        evaluate: runs the U-Net once more, without injection and unseen by the mask provider, with
            the step's own text conditions, so that an extractor's hooks see another input. Takes
            reference rows (halves, C, h, w) or None, target rows (B, C, h, w) and a diffusion time;
            the hooks see the rows in the layout's order, or the targets alone.
    """

    index: int
    timestep: float
    layout: Layout
    reference: Reference
    target_clean: Tensor
    reference_clean: Tensor
    decode: Callable[[Tensor], Tensor]
    alpha_bar: Callable[[float], float] = _not_given
    evaluate: Callable[[Tensor | None, Tensor, float], None] = _not_given


def target_pictures(step: StepOutputs) -> Tensor:
    """Decoded predicted clean targets, one for each pair, (B, 3, H_px, W_px), float32.

    The two halves of classifier-free guidance predict from the same noisy latent, so both show the
    same picture; the conditional half's is decoded, which half the decodes of each on its own cost,
    and stands for both.
    """
    conditional = step.target_clean[-step.layout.targets :]
    with torch.no_grad():
        return step.decode(conditional).float().repeat(step.layout.halves, 1, 1, 1)


def make_views(step: StepOutputs, truth: Correspondence | None = None) -> Views:
    """Pictures of both branches, a decode of each target; see :class:`framework.types.Views`."""
    target = target_pictures(step)
    reference = step.reference.image.to(target)
    if reference.shape[-2:] != target.shape[-2:]:
        raise RuntimeError("reference and target pictures differ in size")
    return Views(target=target, reference=reference.expand(len(target), -1, -1, -1), truth=truth)
