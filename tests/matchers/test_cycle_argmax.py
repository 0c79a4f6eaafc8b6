"""The paper's matcher: which matches it trusts."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from framework.types import Features, Masks
from matchers.cycle_argmax import CycleArgmax


def line(order):
    """A 1 x n grid of one-hot descriptors."""
    return torch.eye(8)[list(order)][None, None]


def confidence(target, reference, share, threshold):
    mask = torch.full(target.shape[:3], share)
    matcher = CycleArgmax(cycle_threshold=threshold)
    return matcher(Features(target, reference), Masks(mask, mask)).confidence


def test_the_threshold_is_strict_and_scales_with_the_foreground():
    """Target cells 0, 1 both show reference cell 0, which leads back to target cell 0: the cycle
    error of cell 1 is exactly 1 cell."""
    target, reference = line([0, 0, 2, 3]).transpose(1, 2), line([0, 1, 2, 3]).transpose(1, 2)
    side = 4
    for share, threshold, trusted in [
        (1.0, 0.25, False),  # gamma * lambda = 4 * 1 * 0.25 = 1, not below it
        (1.0, 0.26, True),
        (0.5, 0.5, False),
        (0.5, 0.52, True),
    ]:
        assert side * share * threshold >= 1
        got = confidence(target, reference, share, threshold)[0, :, 0]
        assert got.tolist() == [1, float(trusted), 1, 1]


def test_gamma_is_the_number_of_rows():
    """Of a grid that is not square, the side is its height."""
    target, reference = line([0, 0, 2, 3]), line([0, 1, 2, 3])  # one row of four
    assert confidence(target, reference, 1.0, 1.0)[0, 0].tolist() == [1, 0, 1, 1]


def test_nothing_is_trusted_without_foreground():
    same = line([0, 1, 2, 3])
    assert confidence(same, same, 0.0, 1.0).max() == 0


def test_the_mask_of_another_pair_does_not_matter():
    target = torch.cat([line([0, 0, 2, 3]), line([0, 0, 2, 3])]).transpose(1, 2)
    reference = torch.cat([line([0, 1, 2, 3]), line([0, 1, 2, 3])]).transpose(1, 2)
    mask = torch.tensor([0.2, 1.0])[:, None, None].expand(2, 4, 1)
    got = CycleArgmax()(Features(target, reference), Masks(mask, mask)).confidence[:, :, 0]
    assert got.tolist() == [[1, 0, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_thresholds_outside_the_unit_range_are_refused(threshold):
    with pytest.raises(UserError, match=r"cycle_threshold is .*; expected .*\[0, 1\]"):
        CycleArgmax(cycle_threshold=threshold)
