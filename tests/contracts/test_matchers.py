"""Every registered matcher keeps the contract of framework.interfaces.Matcher.

A matcher gets descriptors, pictures and truth of the same situation and takes what it needs.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate, normalize, pad

from framework.errors import UserError
from framework.interfaces import MATCHERS
from framework.types import Correspondence, Features, Masks, Views

GRIDS = [(8, 8), (5, 9), (12, 4), (1, 6), (1, 1)]
#: Options that tests need, by name; others are tested with their defaults.
OPTIONS: dict[str, dict] = {
    "loftr": {"weights": "random"},
    "lightglue": {"weights": "random", "detector_weights": "random"},
}
#: Pixels of a cell.
CELL = 8


@pytest.fixture(params=MATCHERS.names(), scope="module")
def matcher(request):
    return MATCHERS.get(request.param)(**OPTIONS.get(request.param, {}))


@pytest.fixture
def invariant(matcher):
    """A matcher that promises the invariants without being given weights."""
    if not matcher.invariant:
        pytest.skip("its invariants depend on weights")
    return matcher


def descriptors(batch, height, width, depth=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(batch, height, width, depth, generator=generator), dim=-1)


def pictures(like):
    """A picture for a descriptor grid: its first three channels as coloured cells."""
    colours = like[..., :3].movedim(-1, 1) * 3
    return interpolate(colours, scale_factor=CELL, mode="bicubic").clamp(-1, 1)


def ones(like):
    full = torch.ones(like.shape[:3])
    return Masks(full, full)


def views(target, reference, shift=(0, 0)):
    flow = torch.tensor(shift, dtype=torch.float32).expand(*target.shape[:3], 2)
    truth = Correspondence(flow, torch.ones(target.shape[:3]))
    return Views(pictures(target), pictures(reference), truth)


def match(matcher, target, reference, masks=None, shift=(0, 0)):
    masks = masks or ones(target)
    if matcher.width is not None:  # it takes that many channels, the further ones are empty
        target, reference = (pad(x, (0, matcher.width - x.shape[-1])) for x in (target, reference))
    return matcher(Features(target, reference), masks, views(target, reference, shift))


@pytest.mark.parametrize("grid", GRIDS)
def test_shapes_types_and_values(matcher, grid):
    target, reference = descriptors(3, *grid), descriptors(3, *grid, seed=1)
    result = match(matcher, target, reference)
    assert result.flow.shape == (3, *grid, 2) and result.confidence.shape == (3, *grid)
    assert result.flow.dtype == result.confidence.dtype == torch.float32
    assert torch.isfinite(result.flow).all()
    assert result.confidence.min() >= 0 and result.confidence.max() <= 1


def test_deterministic_and_without_traces(matcher):
    target, reference = descriptors(2, 6, 6), descriptors(2, 6, 6, seed=1)
    copies, random = (target.clone(), reference.clone()), torch.random.get_rng_state()
    first = match(matcher, target, reference)
    match(matcher, reference, target)
    again = match(matcher, target, reference)
    assert torch.equal(first.flow, again.flow) and torch.equal(first.confidence, again.confidence)
    assert torch.equal(target, copies[0]) and torch.equal(reference, copies[1])
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_pair_does_not_depend_on_its_batch(matcher):
    target, reference = descriptors(4, 6, 7), descriptors(4, 6, 7, seed=1)
    weight = torch.rand(4, 6, 7, generator=torch.Generator().manual_seed(2))
    together = match(matcher, target, reference, Masks(weight, weight))
    for row in range(4):
        one = slice(row, row + 1)
        alone = match(matcher, target[one], reference[one], Masks(weight[one], weight[one]))
        torch.testing.assert_close(alone.flow, together.flow[one], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.confidence, together.confidence[one], atol=1e-3, rtol=0)


def test_no_pair_at_all_is_survived(matcher):
    nothing = descriptors(0, 4, 5)
    result = match(matcher, nothing, nothing)
    assert result.flow.shape == (0, 4, 5, 2) and result.confidence.shape == (0, 4, 5)


def test_an_empty_mask_is_survived(matcher):
    target, reference = descriptors(2, 6, 6), descriptors(2, 6, 6, seed=1)
    nothing = torch.zeros(2, 6, 6)
    for masks in (
        Masks(nothing, nothing),
        Masks(nothing, 1 - nothing),
        Masks(1 - nothing, nothing),
    ):
        assert torch.isfinite(match(matcher, target, reference, masks).flow).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_are_survived(matcher, value):
    same = normalize(torch.full((2, 6, 6, 8), value), dim=-1)
    result = match(matcher, same, same)
    assert torch.isfinite(result.flow).all() and torch.isfinite(result.confidence).all()


@pytest.mark.parametrize("grid", [(8, 8), (5, 9)])
def test_a_match_with_itself_is_the_identity(invariant, grid):
    same = descriptors(2, *grid)
    result = match(invariant, same, same)
    trusted = result.confidence > 0.5
    assert trusted.float().mean() > 0.9
    assert result.flow[trusted].abs().max() < 0.5


@pytest.mark.parametrize("shift", [(2, 0), (0, 1), (-1, 2)])
def test_shifted_features_give_the_shift(invariant, shift):
    """Target cell (x, y) shows reference cell (x, y) + shift."""
    reference = descriptors(2, 10, 12)
    target = reference.roll((-shift[1], -shift[0]), dims=(1, 2))
    result = match(invariant, target, reference, shift=shift)
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside[3:-3, 3:-3] = True
    trusted = (result.confidence > 0.5) & inside
    assert trusted.sum() > 0.8 * 2 * inside.sum()
    expected = torch.tensor(shift, dtype=torch.float32)
    assert (result.flow[trusted] - expected).abs().max() < 0.5


def test_swapping_the_images_inverts_the_flow(invariant):
    """Where both directions are confident, following one and then the other leads back."""
    shift = (1, -2)
    reference = descriptors(2, 10, 12)
    target = reference.roll((-shift[1], -shift[0]), dims=(1, 2))
    there = match(invariant, target, reference, shift=shift)
    back = match(invariant, reference, target, shift=(-shift[0], -shift[1]))
    moved = back.flow.roll((-shift[1], -shift[0]), dims=(1, 2))
    surely = back.confidence.roll((-shift[1], -shift[0]), dims=(1, 2)) > 0.5
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside[3:-3, 3:-3] = True
    trusted = (there.confidence > 0.5) & surely & inside
    assert trusted.sum() > 0.8 * 2 * inside.sum()
    assert (there.flow + moved)[trusted].abs().max() < 0.6


def test_gradients_reach_the_descriptors_where_promised(matcher):
    if not matcher.differentiable:
        pytest.skip("promises none")
    target = descriptors(2, 4, 5).requires_grad_()
    reference = descriptors(2, 4, 5, seed=1).requires_grad_()
    result = match(matcher, target, reference)
    (result.flow.square().sum() + result.confidence.sum()).backward()
    for tensor in (target, reference):
        assert torch.isfinite(tensor.grad).all() and tensor.grad.abs().max() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device here")
def test_results_stay_on_the_device(matcher):
    target, reference = (descriptors(2, 5, 6, seed=seed).cuda() for seed in (0, 1))
    full = torch.ones(2, 5, 6, device="cuda")
    given = views(target.cpu(), reference.cpu())
    moved = Views(
        given.target.cuda(),
        given.reference.cuda(),
        Correspondence(given.truth.flow.cuda(), given.truth.confidence.cuda()),
    )
    result = matcher(Features(target, reference), Masks(full, full), moved)
    assert result.flow.is_cuda and result.confidence.is_cuda


@pytest.mark.parametrize("which", ["reference", "target mask", "reference mask"])
def test_wrong_shapes_are_refused(matcher, which):
    target = reference = descriptors(2, 4, 4)
    masks = [torch.ones(2, 4, 4), torch.ones(2, 4, 4)]
    if which == "reference":
        reference = descriptors(2, 4, 5)
    else:
        masks[which == "reference mask"] = torch.ones(1, 4, 4)
    with pytest.raises(UserError, match=f"{type(matcher).__name__}: {which}.* has shape"):
        matcher(Features(target, reference), Masks(*masks), views(target, target))


def test_what_it_needs_and_does_not_get_is_named(matcher):
    target = descriptors(2, 4, 4)
    given = views(target, target)
    if matcher.needs_features:
        with pytest.raises(UserError, match="matches descriptors"):
            matcher(None, ones(target), given)
    else:
        result = matcher(None, ones(target), given)
        assert result.flow.shape == (2, 4, 4, 2)
    if matcher.needs_views:
        with pytest.raises(UserError, match="matches pictures"):
            matcher(Features(target, target), ones(target), Views(truth=given.truth))
    if matcher.needs_truth:
        with pytest.raises(UserError, match="true correspondence"):
            matcher(Features(target, target), ones(target), Views(given.target, given.reference))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_descriptors_that_are_not_finite_are_named(matcher, value):
    target = descriptors(1, 4, 4)
    broken = target.clone()
    broken[0, 1, 2, 3] = value
    with pytest.raises(UserError, match="descriptors are not finite"):
        matcher(Features(broken, target), ones(target), views(target, target))
