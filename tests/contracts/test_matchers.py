"""Every registered matcher keeps the contract of framework.interfaces.Matcher."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from framework.errors import UserError
from framework.registry import MATCHERS
from framework.types import Features, Masks

GRIDS = [(8, 8), (5, 9), (12, 4), (1, 6), (1, 1)]


@pytest.fixture(params=MATCHERS.names())
def matcher(request):
    return MATCHERS.get(request.param)()


def descriptors(batch, height, width, depth=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(batch, height, width, depth, generator=generator), dim=-1)


def ones(like):
    full = torch.ones(like.shape[:3])
    return Masks(full, full)


@pytest.mark.parametrize("grid", GRIDS)
def test_shapes_types_and_values(matcher, grid):
    target, reference = descriptors(3, *grid), descriptors(3, *grid, seed=1)
    result = matcher(Features(target, reference), ones(target))
    assert result.flow.shape == (3, *grid, 2) and result.confidence.shape == (3, *grid)
    assert result.flow.dtype == result.confidence.dtype == torch.float32
    assert torch.isfinite(result.flow).all()
    assert result.confidence.min() >= 0 and result.confidence.max() <= 1


def test_deterministic_and_without_traces(matcher):
    target, reference = descriptors(2, 6, 6), descriptors(2, 6, 6, seed=1)
    copies, random = (target.clone(), reference.clone()), torch.random.get_rng_state()
    first = matcher(Features(target, reference), ones(target))
    matcher(Features(reference, target), ones(target))
    again = matcher(Features(target, reference), ones(target))
    assert torch.equal(first.flow, again.flow) and torch.equal(first.confidence, again.confidence)
    assert torch.equal(target, copies[0]) and torch.equal(reference, copies[1])
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_pair_does_not_depend_on_its_batch(matcher):
    target, reference = descriptors(4, 6, 7), descriptors(4, 6, 7, seed=1)
    weight = torch.rand(4, 6, 7, generator=torch.Generator().manual_seed(2))
    together = matcher(Features(target, reference), Masks(weight, weight))
    for row in range(4):
        one = slice(row, row + 1)
        alone = matcher(Features(target[one], reference[one]), Masks(weight[one], weight[one]))
        torch.testing.assert_close(alone.flow, together.flow[one], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.confidence, together.confidence[one], atol=1e-3, rtol=0)


def test_an_empty_mask_is_survived(matcher):
    target, reference = descriptors(2, 6, 6), descriptors(2, 6, 6, seed=1)
    nothing = torch.zeros(2, 6, 6)
    for masks in (
        Masks(nothing, nothing),
        Masks(nothing, 1 - nothing),
        Masks(1 - nothing, nothing),
    ):
        assert torch.isfinite(matcher(Features(target, reference), masks).flow).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_are_survived(matcher, value):
    same = normalize(torch.full((2, 6, 6, 8), value), dim=-1)
    result = matcher(Features(same, same), ones(same))
    assert torch.isfinite(result.flow).all() and torch.isfinite(result.confidence).all()


@pytest.mark.parametrize("grid", [(8, 8), (5, 9)])
def test_a_match_with_itself_is_the_identity(matcher, grid):
    same = descriptors(2, *grid)
    result = matcher(Features(same, same), ones(same))
    trusted = result.confidence > 0.5
    assert trusted.float().mean() > 0.9
    assert result.flow[trusted].abs().max() < 0.5


@pytest.mark.parametrize("shift", [(2, 0), (0, 1), (-1, 2)])
def test_shifted_features_give_the_shift(matcher, shift):
    """Target cell (x, y) shows reference cell (x, y) + shift."""
    reference = descriptors(2, 10, 12)
    target = reference.roll((-shift[1], -shift[0]), dims=(1, 2))
    result = matcher(Features(target, reference), ones(target))
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside[3:-3, 3:-3] = True
    trusted = (result.confidence > 0.5) & inside
    assert trusted.sum() > 0.8 * 2 * inside.sum()
    expected = torch.tensor(shift, dtype=torch.float32)
    assert (result.flow[trusted] - expected).abs().max() < 0.5


@pytest.mark.parametrize("which", ["reference", "target mask", "reference mask"])
def test_wrong_shapes_are_refused(matcher, which):
    target = reference = descriptors(2, 4, 4)
    masks = [torch.ones(2, 4, 4), torch.ones(2, 4, 4)]
    if which == "reference":
        reference = descriptors(2, 4, 5)
    else:
        masks[which == "reference mask"] = torch.ones(1, 4, 4)
    with pytest.raises(UserError, match=f"{type(matcher).__name__}: {which}.* has shape"):
        matcher(Features(target, reference), Masks(*masks))
