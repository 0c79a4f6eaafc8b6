"""The types handed from part to part, in data-flow order.

Conventions, stated once for the whole framework:

* A *grid* has ``H`` rows and ``W`` columns of cells; batched grids put the batch first.
* A *flow* points from the target to the reference, in cells, as ``(x, y)``: the target's cell
  ``(x, y)`` matches the reference's cell ``(x, y) + flow[y, x]``.
* ``B`` counts (target, reference) pairs: all unconditional pairs first, then all conditional ones.
* ``N`` is the number of target images of one sampling call; ``B = 2 N`` under classifier-free
  guidance and ``B = N`` without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from framework.errors import UserError


@dataclass(frozen=True)
class Concept:
    """A personal object: how it is written in a prompt and what it looks like.

    Attributes:
        name: a short name, used for files.
        placeholder: the word(s) that stand for it, S* in the paper, e.g. ``"<my-duck>"``. May be
            empty for a model that is not personalized; then the class name alone stands for it.
        class_name: the plain noun, e.g. ``"duck"``; may be several words.
        images: its reference images, RGB, at least one.
        sources: the files the images came from, if any, in the same order.
    """

    name: str
    placeholder: str
    class_name: str
    images: tuple[Image.Image, ...]
    sources: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.class_name.strip():
            raise UserError(
                f"Concept '{self.name}' has an empty class name; give the plain noun for the "
                "object, e.g. concept.class_name=duck."
            )
        if not self.images:
            raise UserError(f"Concept '{self.name}' has no reference image; give at least one.")

    @property
    def phrase(self) -> str:
        """The words put in a prompt's ``{}``: placeholder and class, "S* duck"."""
        return f"{self.placeholder} {self.class_name}".strip()


@dataclass(frozen=True)
class Reference:
    """A reference image prepared for sampling.

    Attributes:
        image: the preprocessed picture, float in [-1, 1], (1, 3, H_px, W_px).
        latent: its clean VAE latent z0^X (posterior mean, scaled), (1, C, h, w).
        trajectory: latents z^X_t for every sampling step, step 0 (noisiest) first,
            (T, 1, C, h, w), in the scale the network sees at that step.
        embeds: text embeddings in place of the reference prompt's, by half, ``unconditional`` and
            ``conditional``, (T, 1, tokens, width) each; none where the prompt serves.
        prompt: the prompt that describes the reference; None is the configured one.
    """

    image: Tensor
    latent: Tensor
    trajectory: Tensor
    embeds: Mapping[str, Tensor] = field(default_factory=dict)
    prompt: str | None = None


@dataclass(frozen=True)
class Features:
    """Descriptors psi of the target and of the reference on a common grid.

    Attributes:
        target: (B, H, W, D), float32, L2-normalised over D.
        reference: (B, H, W, D), likewise; row b belongs to the target's row b.
    """

    target: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Masks:
    """Soft foreground masks in [0, 1].

    Attributes:
        target: M^Y, (B, H, W).
        reference: M^X, (B, H, W).
    """

    target: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Correspondence:
    """Dense matches from target to reference.

    Attributes:
        flow: (B, H, W, 2), (x, y) in cells of the (H, W) grid, target to reference.
        confidence: (B, H, W) in [0, 1]: the probability (or a 0/1 decision) that the match is
            right. 0 leaves the target untouched there.
    """

    flow: Tensor
    confidence: Tensor


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of both branches, for matchers that look at pictures instead of descriptors.

    Compared and hashed by identity: one object stands for one look at the step.

    Attributes:
        target: the decoded predicted clean target of each pair, (B, 3, Hp, Wp), about [-1, 1]; None
            where no matcher asked for pictures.
        reference: the reference picture beside each target, (B, 3, Hp, Wp), likewise.
        truth: the true correspondence where it is known (renders, synthetic warps), on a grid of
            its own such as that of the pixels, (B, h, w, 2) in that grid's cells; its confidence is
            1 where the target's cell shows a point that is visible in the reference, else 0. None
            while sampling.
    """

    target: Tensor | None = None
    reference: Tensor | None = None
    truth: Correspondence | None = None


@dataclass(frozen=True)
class Layout:
    """How many rows one evaluation of the network has: all targets, once for each half.

    Attributes:
        halves: 2 under classifier-free guidance (unconditional rows first), else 1.
        targets: target rows N in each half.
    """

    halves: int
    targets: int

    @property
    def pairs(self) -> int:
        """Number of (target, reference) pairs B, the rows of an evaluation."""
        return self.halves * self.targets

    def pair(self, reference: Tensor) -> Tensor:
        """Repeat reference rows (halves, ...) so that they stand beside the targets (B, ...)."""
        return reference.repeat_interleave(self.targets, dim=0)


@dataclass
class StepTrace:
    """What one sampling step saw; tensors on the CPU, None where they were not asked for.

    Attributes:
        step: index t from 0 (noise).
        timestep: diffusion time; not always a whole number.
        target_clean: predicted clean latents z0_hat^Y, (N, C, h, w).
        reference_clean: predicted clean latent of the reference branch (1, C, h, w), or None in
            steps where that branch does not run.
        latents: the targets' latents *after* this step, (N, C, h, w), in the scheduler's scale.
        matched: whether injection took place.
        flow: (B, H, W, 2) at the finest matched grid, or None.
        confidence: (B, H, W), or None.
        masks: or None.
        features: descriptors used in this step, or None.
    """

    step: int
    timestep: float
    target_clean: Tensor
    latents: Tensor
    reference_clean: Tensor | None = None
    matched: bool = False
    flow: Tensor | None = None
    confidence: Tensor | None = None
    masks: Masks | None = None
    features: Features | None = None


@dataclass
class SamplerOutput:
    """Result of a sampling call.

    Attributes:
        images: PIL images, a float array (N, H, W, 3) in [0, 1], a float tensor (N, 3, H, W) in
            [0, 1], or latents (N, C, h, w), as ``output_type`` asked.
        trace: one entry a step if it was asked for, else empty.
    """

    images: Any
    trace: list[StepTrace] = field(default_factory=list)
