"""Every registered matcher keeps the contract of framework.interfaces.BaseMatcher."""

from __future__ import annotations

import pytest
import torch

from framework import MATCHERS, Correspondence, Features, Masks, UserError, Views
from framework.contracts import NotAsked
from framework.contracts.base import promise_of
from framework.contracts.matchers import (
    CHECKS,
    coloured_views,
    full_masks,
    random_descriptors,
)

#: Options that tests need, by name; others are tested with their defaults.
OPTIONS: dict[str, dict] = {
    "loftr": {"weights": "random"},
    "lightglue": {"weights": "random", "detector_weights": "random"},
}


@pytest.fixture(params=MATCHERS.names(), scope="module")
def matcher(request):
    return MATCHERS.get(request.param)(**OPTIONS.get(request.param, {}))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_its_contract(matcher, check):
    assert promise_of(check).endswith(".")
    try:
        check(matcher)
    except NotAsked as why:
        pytest.skip(str(why))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device here")
def test_results_stay_on_the_device(matcher):
    target, reference = (random_descriptors(2, 5, 6, seed=seed).cuda() for seed in (0, 1))
    full = torch.ones(2, 5, 6, device="cuda")
    given = coloured_views(target.cpu(), reference.cpu())
    moved = Views(
        given.target.cuda(),
        given.reference.cuda(),
        Correspondence(given.truth.flow.cuda(), given.truth.confidence.cuda()),
    )
    result = matcher(Features(target, reference), Masks(full, full), moved)
    assert result.flow.is_cuda and result.confidence.is_cuda


@pytest.mark.parametrize("which", ["reference", "target mask", "reference mask"])
def test_wrong_shapes_are_refused(matcher, which):
    target = reference = random_descriptors(2, 4, 4)
    masks = [torch.ones(2, 4, 4), torch.ones(2, 4, 4)]
    if which == "reference":
        reference = random_descriptors(2, 4, 5)
    else:
        masks[which == "reference mask"] = torch.ones(1, 4, 4)
    with pytest.raises(UserError, match=f"{type(matcher).__name__}: {which}.* has shape"):
        matcher(Features(target, reference), Masks(*masks), coloured_views(target, target))


def test_what_it_needs_and_does_not_get_is_named(matcher):
    target = random_descriptors(2, 4, 4)
    given = coloured_views(target, target)
    if matcher.needs.features:
        with pytest.raises(UserError, match="matches descriptors"):
            matcher(None, full_masks(target), given)
    if matcher.needs.pictures:
        with pytest.raises(UserError, match="matches pictures"):
            matcher(Features(target, target), full_masks(target), Views(truth=given.truth))
    if matcher.needs.truth:
        with pytest.raises(UserError, match="true correspondence"):
            matcher(
                Features(target, target), full_masks(target), Views(given.target, given.reference)
            )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_descriptors_that_are_not_finite_are_named(matcher, value):
    target = random_descriptors(1, 4, 4)
    broken = target.clone()
    broken[0, 1, 2, 3] = value
    with pytest.raises(UserError, match="descriptors are not finite"):
        matcher(Features(broken, target), full_masks(target), coloured_views(target, target))
