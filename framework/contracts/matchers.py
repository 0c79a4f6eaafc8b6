"""What every matcher keeps; see :class:`framework.interfaces.BaseMatcher`.

A matcher gets descriptors, pictures and truth of the same situation and takes what it needs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from framework.contracts.base import NotAsked, expect, expect_close
from framework.interfaces import BaseMatcher
from framework.types import Correspondence, Features, Masks, Views

GRIDS = ((8, 8), (5, 9), (12, 4), (1, 6), (1, 1))
#: Pixels of a cell.
CELL = 8


def random_descriptors(
    batch: int, height: int, width: int, depth: int = 48, seed: int = 0
) -> Tensor:
    """Descriptors (B, H, W, D) that tell all cells apart."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(batch, height, width, depth, generator=generator), dim=-1)


def full_masks(like: Tensor) -> Masks:
    """Masks (B, H, W) of ones for descriptors (B, H, W, D)."""
    full = torch.ones(like.shape[:3])
    return Masks(full, full)


def coloured_views(target: Tensor, reference: Tensor, shift: tuple[int, int] = (0, 0)) -> Views:
    """Pictures of two descriptor grids (B, H, W, D), cells in colours, and the true flow."""

    def picture(descriptors: Tensor) -> Tensor:
        colours = descriptors[..., :3].movedim(-1, 1) * 3
        return interpolate(colours, scale_factor=CELL, mode="bicubic").clamp(-1, 1)

    flow = torch.tensor(shift, dtype=torch.float32).expand(*target.shape[:3], 2)
    truth = Correspondence(flow, torch.ones(target.shape[:3]))
    return Views(picture(target), picture(reference), truth)


def matched(
    matcher: BaseMatcher,
    target: Tensor,
    reference: Tensor,
    masks: Masks | None = None,
    shift: tuple[int, int] = (0, 0),
) -> Correspondence:
    """What the matcher makes of two descriptor grids (B, H, W, D) and their pictures."""
    masks = masks or full_masks(target)
    if matcher.needs.width is not None:  # it takes that many channels, the further ones are empty
        missing = matcher.needs.width - target.shape[-1]
        target, reference = (pad(grid, (0, missing)) for grid in (target, reference))
    views = coloured_views(target, reference, shift)
    return matcher(Features(target, reference), masks, views)


def gives_a_flow_and_a_confidence(matcher: BaseMatcher) -> None:
    """Flow (B, H, W, 2), finite, and confidence (B, H, W) in [0, 1], float32, on any grid."""
    for grid in GRIDS:
        target, reference = random_descriptors(3, *grid), random_descriptors(3, *grid, seed=1)
        result = matched(matcher, target, reference)
        for name, tensor in (("flow", result.flow), ("confidence", result.confidence)):
            expect(
                tensor.dtype == torch.float32,
                f"the {name} on a grid {grid} is {tensor.dtype}; expected torch.float32.",
            )


def repeats_itself_without_traces(matcher: BaseMatcher) -> None:
    """The same input gives the same bits; its input and torch's generator stay as they were."""
    target, reference = random_descriptors(2, 6, 6), random_descriptors(2, 6, 6, seed=1)
    copies, random = (target.clone(), reference.clone()), torch.random.get_rng_state()
    first = matched(matcher, target, reference)
    matched(matcher, reference, target)
    again = matched(matcher, target, reference)
    expect_close("the flows of two equal calls", again.flow, first.flow)
    expect_close("the confidences of two equal calls", again.confidence, first.confidence)
    expect_close("the target's descriptors before and after", target, copies[0])
    expect_close("the reference's descriptors before and after", reference, copies[1])
    expect(
        torch.equal(torch.random.get_rng_state(), random),
        "it draws from torch's own generator; use a torch.Generator with a seed of its own.",
    )


def treats_each_pair_alone(matcher: BaseMatcher) -> None:
    """A pair's matches do not depend on the other pairs of its batch."""
    target, reference = random_descriptors(4, 6, 7), random_descriptors(4, 6, 7, seed=1)
    weight = torch.rand(4, 6, 7, generator=torch.Generator().manual_seed(2))
    together = matched(matcher, target, reference, Masks(weight, weight))
    for row in range(4):
        one = slice(row, row + 1)
        alone = matched(matcher, target[one], reference[one], Masks(weight[one], weight[one]))
        pair = f"of pair {row} alone and in a batch of four"
        expect_close(f"the flows {pair}", alone.flow, together.flow[one], 1e-3)
        expect_close(f"the confidences {pair}", alone.confidence, together.confidence[one], 1e-3)


def survives_no_pair(matcher: BaseMatcher) -> None:
    """A batch without a pair gives an empty flow and an empty confidence."""
    nothing = random_descriptors(0, 4, 5)
    result = matched(matcher, nothing, nothing)
    expect(result.flow.shape == (0, 4, 5, 2), f"the flow has the shape {result.flow.shape}.")


def survives_empty_masks(matcher: BaseMatcher) -> None:
    """Masks that are empty on one side or both give finite flows."""
    target, reference = random_descriptors(2, 6, 6), random_descriptors(2, 6, 6, seed=1)
    nothing = torch.zeros(2, 6, 6)
    for masks in (
        Masks(nothing, nothing),
        Masks(nothing, 1 - nothing),
        Masks(1 - nothing, nothing),
    ):
        matched(matcher, target, reference, masks)


def survives_equal_descriptors(matcher: BaseMatcher) -> None:
    """Descriptors that are all alike, or all zero, give finite flows and confidences."""
    for value in (0.0, 1.0):
        same = normalize(torch.full((2, 6, 6, 8), value), dim=-1)
        matched(matcher, same, same)


def _asked_for_invariants(matcher: BaseMatcher) -> None:
    if not matcher.promises.invariant:
        raise NotAsked("invariant is False: that depends on weights")


def matches_a_picture_with_itself(matcher: BaseMatcher) -> None:
    """Matched with itself a picture stays where it is, for the most part confidently."""
    _asked_for_invariants(matcher)
    for grid in ((8, 8), (5, 9)):
        same = random_descriptors(2, *grid)
        result = matched(matcher, same, same)
        trusted = result.confidence > 0.5
        share = float(trusted.float().mean())
        expect(share > 0.9, f"confident of {share:.0%} of the cells of {grid}; expected 90 %.")
        error = float(result.flow[trusted].abs().max())
        expect(error < 0.5, f"the flow on {grid} reaches {error:.2f} cells; expected below 0.5.")


def follows_a_shift(matcher: BaseMatcher) -> None:
    """A shifted picture gives the shift as flow: (x, y) in cells, from target to reference."""
    _asked_for_invariants(matcher)
    for shift in ((2, 0), (0, 1), (-1, 2)):
        reference = random_descriptors(2, 10, 12)
        target = reference.roll((-shift[1], -shift[0]), dims=(1, 2))
        result = matched(matcher, target, reference, shift=shift)
        trusted = (result.confidence > 0.5) & _inner_cells()
        share = int(trusted.sum()) / int(2 * _inner_cells().sum())
        expect(share > 0.8, f"confident of {share:.0%} of the cells shifted by {shift}.")
        error = float((result.flow[trusted] - torch.tensor(shift)).abs().max())
        expect(error < 0.5, f"the flow misses a shift of {shift} by {error:.2f} cells.")


def inverts_when_swapped(matcher: BaseMatcher) -> None:
    """Where both directions are confident, following one and then the other leads back."""
    _asked_for_invariants(matcher)
    shift = (1, -2)
    reference = random_descriptors(2, 10, 12)
    target = reference.roll((-shift[1], -shift[0]), dims=(1, 2))
    there = matched(matcher, target, reference, shift=shift)
    back = matched(matcher, reference, target, shift=(-shift[0], -shift[1]))
    moved = back.flow.roll((-shift[1], -shift[0]), dims=(1, 2))
    surely = back.confidence.roll((-shift[1], -shift[0]), dims=(1, 2)) > 0.5
    trusted = (there.confidence > 0.5) & surely & _inner_cells()
    share = int(trusted.sum()) / int(2 * _inner_cells().sum())
    expect(share > 0.8, f"confident both ways of {share:.0%} of the cells; expected 80 %.")
    error = float((there.flow + moved)[trusted].abs().max())
    expect(error < 0.6, f"there and back misses by {error:.2f} cells; expected below 0.6.")


def _inner_cells() -> Tensor:
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside[3:-3, 3:-3] = True
    return inside


def passes_gradients_it_promises(matcher: BaseMatcher) -> None:
    """Gradients reach both descriptors, if it is declared differentiable."""
    if not matcher.promises.differentiable:
        raise NotAsked("differentiable is False")
    target = random_descriptors(2, 4, 5).requires_grad_()
    reference = random_descriptors(2, 4, 5, seed=1).requires_grad_()
    result = matched(matcher, target, reference)
    (result.flow.square().sum() + result.confidence.sum()).backward()
    for name, tensor in (("target's", target), ("reference's", reference)):
        reached = tensor.grad is not None and tensor.grad.isfinite().all()
        expect(
            reached and tensor.grad.abs().max() > 0,  # type: ignore[union-attr]
            f"the {name} descriptors have no gradient, or one that is not finite.",
        )


def does_without_what_it_does_not_need(matcher: BaseMatcher) -> None:
    """It runs without descriptors where it says it needs none."""
    if matcher.needs.features:
        raise NotAsked("it needs descriptors")
    target = random_descriptors(2, 4, 4)
    result = matcher(None, full_masks(target), coloured_views(target, target))
    expect(result.flow.shape == (2, 4, 4, 2), f"the flow has the shape {result.flow.shape}.")


CHECKS = (
    gives_a_flow_and_a_confidence,
    repeats_itself_without_traces,
    treats_each_pair_alone,
    survives_no_pair,
    survives_empty_masks,
    survives_equal_descriptors,
    matches_a_picture_with_itself,
    follows_a_shift,
    inverts_when_swapped,
    passes_gradients_it_promises,
    does_without_what_it_does_not_need,
)
