"""What a part keeps inside a sampler: on the embedded model, or on any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from framework.contracts.base import Check, expect, expect_close
from framework.interfaces import Part
from framework.types import StepTrace

#: Makes a sampler of few steps, injecting from step 1 on, around a part.
Stage = Callable[[Part], Any]
PROMPTS = ("a photo of a {}", "a {} on the snow")


def last_step(stage: Stage, part: Part, rows: slice = slice(None)) -> StepTrace:
    """The last step of drawing some of two targets."""
    prompts, seeds = list(PROMPTS[rows]), [1, 2][rows]
    output = stage(part)(prompts, seed=seeds, output_type="latent", return_trace=True)
    expect(torch.isfinite(output.images).all(), "the picture is not finite.")
    return output.trace[-1]


def runs_and_repeats_itself(part: Part, stage: Stage) -> None:
    """A picture is drawn with it, finite, and the same bits when it is drawn again."""
    first, again = (last_step(stage, part).latents for _ in range(2))
    expect_close("two equal drawings", again, first)


def leaves_nothing_behind(part: Part, stage: Stage) -> None:
    """No hook stays on the model, and torch's own generator is as it was."""
    sampler, random = stage(part), torch.random.get_rng_state()
    networks = [each for each in sampler.pipe.components.values() if hasattr(each, "modules")]
    before = _hooks(networks)
    sampler(PROMPTS[0], seed=1, output_type="latent")
    expect(_hooks(networks) == before, "hooks stay on the model; remove them when attach() ends.")
    expect(
        torch.equal(torch.random.get_rng_state(), random),
        "it draws from torch's own generator; use a torch.Generator with a seed of its own.",
    )


def _hooks(networks: list[Any]) -> int:
    modules = [module for network in networks for module in network.modules()]
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules)


def describes_each_cell(part: Part, stage: Stage) -> None:
    """Descriptors (B, H, W, D) are float32, finite, of norm 1, alike for both sides in shape."""
    features = last_step(stage, part).features
    assert features is not None
    for side, grid in (("target's", features.target), ("reference's", features.reference)):
        expect(grid.dtype == torch.float32, f"the {side} descriptors are {grid.dtype}.")
        expect(grid.isfinite().all(), f"the {side} descriptors are not finite.")
        error = float((grid.norm(dim=-1) - 1).abs().max())
        expect(error < 1e-4, f"the norm of the {side} descriptors misses 1 by {error:.2g}.")


def describes_each_target_alone(part: Part, stage: Stage) -> None:
    """A target's similarities to the reference do not depend on the batch it is drawn in."""
    together = last_step(stage, part).features
    for row in range(2):
        alone = last_step(stage, part, slice(row, row + 1)).features
        assert alone is not None and together is not None
        whole = _similarities(together.target[row::2], together.reference[row::2])
        own = _similarities(alone.target, alone.reference)
        expect_close(f"the similarities of target {row} alone and in a batch", own, whole, 5e-3)


def _similarities(target: Tensor, reference: Tensor) -> Tensor:
    """Dot products of all cells of two grids (B, H, W, D), (B, H * W, H * W)."""
    return target.flatten(1, 2) @ reference.flatten(1, 2).mT


def masks_each_cell(part: Part, stage: Stage) -> None:
    """Masks (B, H, W) are float32 in [0, 1]; a target's do not depend on its batch."""
    together = last_step(stage, part).masks
    assert together is not None
    for side, mask in (("target's", together.target), ("reference's", together.reference)):
        expect(mask.dtype == torch.float32, f"the {side} mask is {mask.dtype}.")
        inside = mask.isfinite().all() and mask.min() >= 0 and mask.max() <= 1
        expect(inside, f"the {side} mask is not in [0, 1] everywhere.")
    for row in range(2):
        alone = last_step(stage, part, slice(row, row + 1)).masks
        assert alone is not None
        what = f"the masks of target {row} alone and in a batch"
        expect_close(what, alone.target, together.target[row::2], 1e-3)


EVERY = (runs_and_repeats_itself, leaves_nothing_behind)
OF_KIND = {
    "extractor": (*EVERY, describes_each_cell, describes_each_target_alone),
    "mask": (*EVERY, masks_each_cell),
    "trajectory": EVERY,
    "injector": EVERY,
    "guidance": EVERY,
}


def on_stage(stage: Stage, kind: str) -> list[Check]:
    """The checks of a kind, on a stage."""
    bound: list[Check] = []
    for check in OF_KIND.get(kind, ()):
        one = partial(check, stage=stage)
        one.__doc__ = check.__doc__
        bound.append(one)
    return bound
