"""What a step leaves behind, and what parts are told before one begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor

from framework.interfaces.levels import Level
from framework.types import Correspondence, Features, Layout, Reference, Views


def _not_given(*args: object) -> NoReturn:
    raise RuntimeError("this StepOutputs was made without a way to evaluate the network again")


@dataclass(frozen=True)
class StepOutputs:
    """Result of one step: what the network predicts for the targets and for the reference.

    Attributes:
        index: step index t, 0 at noise.
        timestep: diffusion time.
        layout: order of the target rows (see :class:`framework.types.Layout`).
        reference: the prepared reference.
        target_clean: z0_hat^Y per pair, (B, C, h, w).
        reference_clean: z0_hat^X per half, (halves, C, h, w).
        decode: maps latents (n, C, h, w) to images (n, 3, H_px, W_px) in [-1, 1].
        level: maps a diffusion time to its noise level; refuses a time the model has not.
        evaluate: runs the network once more, without injection and unseen by the mask provider,
            with the step's own text conditions, so that an extractor's hooks see another input.
            Takes rows, a diffusion time, and whether the rows are the reference's (halves, C, h, w)
            instead of the targets' (B, C, h, w).
    """

    index: int
    timestep: float
    layout: Layout
    reference: Reference
    target_clean: Tensor
    reference_clean: Tensor
    decode: Callable[[Tensor], Tensor]
    level: Callable[[float], Level] = _not_given
    evaluate: Callable[[Tensor, float, bool], None] = _not_given

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of the latents."""
        height, width = self.target_clean.shape[-2:]
        return int(height), int(width)

    @cached_property
    def pictures(self) -> Tensor:
        """Decoded predicted clean targets, one for each pair, (B, 3, H_px, W_px), float32.

        The two halves of classifier-free guidance predict from the same noisy latent, so both show
        the same picture; the conditional half's is decoded, which half the decodes of each on its
        own cost, and stands for both. Decoded when first asked for.
        """
        conditional = self.target_clean[-self.layout.targets :]
        with torch.no_grad():
            return self.decode(conditional).float().repeat(self.layout.halves, 1, 1, 1)


@dataclass(frozen=True)
class StepContext:
    """What a part may know when a step begins, before anything of the step is computed.

    Attributes:
        index: step index t, 0 at noise.
        steps: number of steps T.
        timestep: diffusion time.
        signal: a in z = a z0 + s eps, in (0, 1].
        noise: s, likewise.
        layout: order of the target rows.
        reference: the prepared reference, with its picture.
        shows_reference: whether the evaluation that follows shows the network the reference alone;
            else the targets alone.
        before: what the step before predicted (``before.pictures`` decodes it); None in the first
            step, and where no features were described in the one before.
        matches: matches of the step before, by grid (H, W); empty if it was not matched.
        history: descriptors of earlier steps, the latest first, as many as the part's ``history``
            asks for and there are; :func:`framework.geometry.resize_features` resizes them.
    """

    index: int
    steps: int
    timestep: float
    signal: float
    noise: float
    layout: Layout
    reference: Reference | None = None
    shows_reference: bool = False
    before: StepOutputs | None = None
    matches: Mapping[tuple[int, int], Correspondence] = field(default_factory=dict)
    history: tuple[Features, ...] = ()


def make_views(step: StepOutputs, truth: Correspondence | None = None) -> Views:
    """Pictures of both branches, a decode of each target; see :class:`framework.types.Views`."""
    target = step.pictures
    reference = step.reference.image.to(target)
    if reference.shape[-2:] != target.shape[-2:]:
        raise RuntimeError("reference and target pictures differ in size")
    return Views(target=target, reference=reference.expand(len(target), -1, -1, -1), truth=truth)
