"""The benchmark's measures, against values a hand can compute."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from framework.matchbench.measures import (
    at_points,
    average_precision,
    pck,
    predicted_points,
    score_points,
    sparsification_area,
)


def test_a_point_takes_the_flow_of_its_cell():
    flow = torch.zeros(2, 4, 2)
    flow[1, 3] = torch.tensor([-2.0, 1.0])
    points = torch.tensor([[6.0, 2.0], [7.0, 3.0], [5.0, 2.0]])  # cells of 2 x 2 pixels
    predicted = predicted_points(flow, points, (4, 8))
    assert predicted.tolist() == [[2.0, 4.0], [3.0, 5.0], [5.0, 2.0]]


def test_cells_that_are_not_square():
    flow = torch.ones(1, 2, 2)
    predicted = predicted_points(flow, torch.tensor([[0.0, 0.0]]), (3, 8))
    assert predicted.tolist() == [[4.0, 3.0]]


def test_values_at_points_outside_are_those_of_the_nearest_cell():
    values = torch.arange(4.0).view(2, 2)
    points = torch.tensor([[-0.5, -0.5], [7.4, 0.0], [3.4, 4.0], [9.0, 9.0]])
    assert at_points(values, points, (8, 8)).tolist() == [0, 1, 2, 3]


def test_pck_counts_the_threshold_itself_and_knows_nothing_of_no_points():
    errors = torch.tensor([0.0, 1.0, 1.0001, 5.0])
    assert pck(errors, 10.0, 0.1) == 0.5
    assert pck(errors, 100.0, 0.1) == 1.0
    assert math.isnan(pck(errors[:0], 10.0, 0.1))


def test_confidence_that_orders_the_errors_has_no_area():
    errors = torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert sparsification_area(errors, 10 - errors) == pytest.approx(0.0, abs=1e-12)


def test_the_worst_order():
    # Best: (1 + 1.5 + 2) / 3 = 1.5; worst: (3 + 2.5 + 2) / 3 = 2.5; mean error 2.
    errors = torch.tensor([1.0, 2.0, 3.0])
    assert sparsification_area(errors, errors) == pytest.approx(0.5)


def test_equal_confidences_are_the_mean_over_every_order():
    errors = torch.tensor([5.0, 1.0, 0.0, 2.0])
    confidence = torch.tensor([0.5, 0.5, 0.5, 1.0])
    areas = []
    for order in itertools.permutations(range(3)):
        broken = confidence.clone()
        for place, index in enumerate(order):
            broken[index] -= 0.01 * place
        areas.append(sparsification_area(errors, broken))
    assert sparsification_area(errors, confidence) == pytest.approx(sum(areas) / len(areas))


def test_areas_at_the_edges():
    nothing = torch.zeros(0)
    assert math.isnan(sparsification_area(nothing, nothing))
    assert sparsification_area(torch.zeros(3), torch.tensor([0.1, 0.5, 0.2])) == 0
    assert sparsification_area(torch.tensor([2.0]), torch.tensor([0.3])) == 0


def test_average_precision():
    # Ranks of the positives: 1 and 3, so (1 / 1 + 2 / 3) / 2.
    score = torch.tensor([0.9, 0.8, 0.7, 0.1])
    positive = torch.tensor([True, False, True, False])
    assert average_precision(score, positive) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_of_a_score_that_says_nothing_is_the_share_of_positives():
    positive = torch.tensor([True, False, False, False])
    assert average_precision(torch.full((4,), 0.5), positive) == pytest.approx(0.25)
    assert average_precision(torch.arange(4.0), torch.ones(4, dtype=torch.bool)) == 1
    assert math.isnan(average_precision(torch.arange(4.0), torch.zeros(4, dtype=torch.bool)))


def test_average_precision_agrees_with_torchmetrics():
    from torchmetrics.functional.classification import binary_average_precision

    generator = torch.Generator().manual_seed(0)
    score = (torch.rand(200, generator=generator) * 10).round() / 10
    positive = torch.rand(200, generator=generator) < score
    expected = binary_average_precision(score, positive.long(), thresholds=None)
    assert average_precision(score, positive) == pytest.approx(float(expected), abs=1e-6)


def test_every_measure_of_a_pair():
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
    predicted = truth + torch.tensor([[0.0, 0.0], [0.0, 8.0], [1e-5, 0.0], [50.0, 0.0]])
    visible = torch.tensor([True, True, True, False])
    confidence = torch.tensor([0.9, 0.5, 0.8, 0.1])
    scores = score_points(predicted, confidence, truth, visible, box=100.0)
    assert scores["pck@0.05"] == pytest.approx(2 / 3)
    assert scores["pck@0.1"] == scores["pck@0.15"] == 1
    assert scores["epe"] == pytest.approx(8 / 3)
    assert scores["ause"] == 0 and scores["occlusion_ap"] == 1
    assert scores["confidence"] == pytest.approx(2.2 / 3) and scores["occluded"] == 0.25
    halved = score_points(
        predicted, confidence, truth, visible, 100.0, scale=torch.tensor([1.0, 0.5])
    )
    assert halved["pck@0.05"] == 1 and halved["epe"] == pytest.approx(4 / 3)


def test_a_pair_without_visible_points():
    points = torch.zeros(2, 2)
    scores = score_points(points, torch.ones(2), points, torch.zeros(2, dtype=torch.bool), 1.0)
    assert math.isnan(scores["pck@0.1"]) and math.isnan(scores["epe"])
    assert scores["occlusion_ap"] == scores["occluded"] == 1
    none = score_points(points[:0], torch.ones(0), points[:0], torch.ones(0).bool(), 1.0)
    assert all(math.isnan(value) for value in none.values())
