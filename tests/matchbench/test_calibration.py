"""Tallies of confidences, and the curves learned from them, against values a hand can compute."""

from __future__ import annotations

import pytest
import torch

from framework.matchbench.calibration import (
    add,
    calibration_error,
    fit_curve,
    overconfidence,
    tally,
)
from framework.matchbench.measures import right_points

NOBODY = torch.zeros(0)


def test_points_are_counted_by_confidence():
    confidence = torch.tensor([0.0, 0.5, 0.504, 1.0])
    right = torch.tensor([False, True, False, True])
    counted = tally(confidence, right)
    assert counted == [[0, 1, 0, 0.0], [50, 2, 1, 1.004], [99, 1, 1, 1.0]]
    twice = add([counted, counted])
    assert [row[1] for row in twice] == [2, 4, 2] and twice[1][3] == pytest.approx(2.008)
    assert tally(NOBODY, NOBODY.bool()) == [] == add([])


def test_right_is_visible_and_near():
    truth = torch.zeros(4, 2)
    predicted = torch.tensor([[10.0, 0.0], [10.1, 0.0], [0.0, 0.0], [0.0, 20.0]])
    visible = torch.tensor([True, True, False, True])
    assert right_points(predicted, truth, visible, 100.0).tolist() == [True, False, False, False]
    halved = right_points(predicted, truth, visible, 100.0, torch.tensor([1.0, 0.5]))
    assert halved.tolist() == [True, False, False, True]


def test_the_error_is_the_distance_of_what_is_said_and_what_is():
    always = tally(torch.ones(10), torch.arange(10) < 3)
    assert calibration_error(always) == pytest.approx(0.7)
    assert overconfidence(always) == pytest.approx(0.7)
    # 0.25 in one bin of ten is right half the time, 0.75 in another a quarter of the time.
    both = tally(torch.tensor([0.25] * 4 + [0.75] * 4), torch.tensor([1, 1, 0, 0, 1, 0, 0, 0]) > 0)
    assert calibration_error(both) == pytest.approx((0.25 + 0.5) / 2)
    assert overconfidence(both) == pytest.approx((-0.25 + 0.5) / 2)
    assert calibration_error([]) is None and overconfidence([]) is None


def test_a_decision_becomes_two_shares():
    confidence = torch.tensor([0.0] * 10 + [1.0] * 10)
    right = torch.tensor([True] + [False] * 9 + [True] * 4 + [False] * 6)
    assert fit_curve(tally(confidence, right)) == [[0.0, 0.1], [1.0, 0.4]]


def test_a_curve_never_falls_and_keeps_what_rises():
    confidence = torch.tensor([0.1] * 10 + [0.5] * 10 + [0.6] * 10 + [0.9] * 10)
    hits = [1, 6, 4, 9]
    right = torch.cat([torch.arange(10) < count for count in hits])
    assert fit_curve(tally(confidence, right)) == [[0.1, 0.1], [0.5, 0.5], [0.6, 0.5], [0.9, 0.9]]
    wrong_way_round = torch.cat([torch.arange(10) < count for count in hits[::-1]])
    (first, *_, last) = fit_curve(tally(confidence, wrong_way_round))
    assert first == [0.1, 0.5] and last == [0.9, 0.5]
    assert fit_curve([]) == []


def test_bins_with_hardly_a_point_are_merged():
    confidence = torch.cat([torch.full((98,), 0.5), torch.tensor([0.2, 0.8])])
    right = torch.arange(100) < 49
    ((x, y),) = fit_curve(tally(confidence, right))
    assert x == pytest.approx(0.5) and y == pytest.approx(0.49)
