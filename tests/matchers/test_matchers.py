"""What is particular to each matcher of pure tensor code."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler
from torch.nn.functional import normalize

from framework.errors import UserError
from framework.extractors.diffusion import DiffusionFeatures
from framework.types import Correspondence, Features, Masks, Views
from matchers import functional
from matchers.functional import resize_correspondence, soft_window
from matchers.functional_smooth import voted_flow
from matchers.functional_transport import logits_in_blocks, sinkhorn
from matchers.mutual_nn import MutualNN
from matchers.optimal_transport import OptimalTransport
from matchers.oracle import Oracle
from matchers.smooth_flow import SmoothFlow
from matchers.soft_argmax import SoftArgmax


def line(order):
    """A 1 x n grid of one-hot descriptors."""
    return torch.eye(8)[list(order)][None, None]


def run(matcher, target, reference):
    ones = torch.ones(target.shape[:3])
    return matcher(Features(target, reference), Masks(ones, ones))


def field(batch, height, width, depth=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(batch, height, width, depth, generator=generator), dim=-1)


# ------------------------------------------------------------------ mutual_nn


def test_two_cells_that_want_the_same_are_not_both_mutual():
    """Target cells 0 and 1 both show reference cell 0, which chooses target cell 0."""
    target, reference = line([0, 0, 2, 3]), line([0, 1, 2, 3])
    assert run(MutualNN(), target, reference).confidence[0, 0].tolist() == [1, 0, 1, 1]
    assert run(MutualNN(tolerance=1.0), target, reference).confidence[0, 0].tolist() == [1] * 4


# ------------------------------------------------------------------ soft_argmax


def test_the_flow_falls_between_cells_and_a_distant_peak_does_not_pull():
    logits = torch.tensor([[0.0, 2.0, 2.0, 0.0, -9.0, -9.0, -9.0, 1.9]])
    position, share = soft_window(logits, 1, 8, radius=1)
    weights = torch.tensor([0.0, 2.0, 2.0]).exp()
    expected = (weights * torch.tensor([0.0, 1.0, 2.0])).sum() / weights.sum()
    torch.testing.assert_close(position[0], torch.stack([expected, torch.tensor(0.0)]))
    torch.testing.assert_close(share[0], weights.sum() / logits.exp().sum())


def test_radius_zero_is_the_argmax_and_confidence_is_its_probability():
    target, reference = field(2, 4, 5), field(2, 4, 5, seed=1)
    result = run(SoftArgmax(radius=0, temperature=0.1), target, reference)
    assert torch.equal(result.flow, functional.argmax_flow(target, reference))
    logits = target.flatten(1, 2) @ reference.flatten(1, 2).mT / 0.1
    torch.testing.assert_close(result.confidence.flatten(1), logits.softmax(-1).amax(-1))


def test_equal_descriptors_share_the_probability():
    same = normalize(torch.ones(1, 4, 4, 3), dim=-1)
    result = run(SoftArgmax(radius=0), same, same)
    torch.testing.assert_close(result.confidence, torch.full((1, 4, 4), 1 / 16))


# ------------------------------------------------------------------ chunks


@pytest.mark.parametrize(
    "matcher", [MutualNN(), SoftArgmax(), OptimalTransport(), SmoothFlow(matcher="soft_argmax")]
)
def test_the_budget_changes_nothing(matcher, monkeypatch):
    target, reference = field(2, 5, 6), field(2, 5, 6, seed=1)
    whole = run(matcher, target, reference)
    for module in ("functional", "functional_transport", "functional_smooth"):
        monkeypatch.setattr(f"matchers.{module}.BUDGET", 70)
    parts = run(matcher, target, reference)
    torch.testing.assert_close(parts.flow, whole.flow, atol=1e-4, rtol=0)
    torch.testing.assert_close(parts.confidence, whole.confidence, atol=1e-4, rtol=0)


# ------------------------------------------------------------------ optimal_transport


def plan(target, reference, dustbin=0.2, epsilon=0.1, iterations=200):
    """The whole plan with its dustbin column, and the potentials' own."""
    blocks = logits_in_blocks(target, reference, epsilon)
    bin_logit = dustbin / epsilon
    u, v, column = sinkhorn(blocks, len(target), len(reference), bin_logit, iterations, target)
    (logits,) = blocks()
    return (logits + u[:, None] + v).exp(), (bin_logit + u + column).exp()


def test_mass_is_neither_lost_nor_doubled():
    target, reference = field(1, 3, 4)[0].flatten(0, 1), field(1, 2, 5, seed=1)[0].flatten(0, 1)
    moved, binned = plan(target, reference)
    torch.testing.assert_close(moved.sum(1) + binned, torch.ones(12), atol=1e-5, rtol=0)
    assert (moved.sum(0) <= 1 + 1e-3).all()
    few, left = plan(target, reference, iterations=1)
    torch.testing.assert_close(few.sum(1) + left, torch.ones(12), atol=1e-5, rtol=0)


def test_what_is_not_in_the_reference_goes_to_the_dustbin():
    """The last two target cells show what the reference has not."""
    target, reference = line([0, 1, 2, 6, 7]), line([0, 1, 2, 3, 4])
    confidence = run(OptimalTransport(), target, reference).confidence[0, 0]
    assert confidence[:3].min() > 0.9 and confidence[3:].max() < 0.1


def test_two_cells_cannot_both_claim_one():
    target, reference = line([0, 0, 2, 3]), line([0, 1, 2, 3])
    confidence = run(OptimalTransport(), target, reference).confidence[0, 0]
    assert confidence[:2].max() < 0.7 and confidence[2:].min() > 0.9


# ------------------------------------------------------------------ smooth_flow


def test_an_outlier_is_outvoted_and_an_edge_stays_sharp():
    flow = torch.zeros(8, 8, 2)
    flow[:, 4:, 0] = 6.0  # two halves that move differently
    noisy = flow.clone()
    noisy[2, 2] = torch.tensor([-5.0, 3.0])
    smooth, support = voted_flow(noisy, torch.ones(8, 8), radius=2, sigma=1.5, tolerance=0.5)
    torch.testing.assert_close(smooth, flow, atol=1e-3, rtol=0)
    assert support[2, 2] > 0.5 and support.max() <= 1
    assert support[4, 3] < support[4, 1]  # beside the edge half the neighbours disagree


def test_confidence_weighs_and_an_occluded_part_stays_occluded():
    flow = torch.zeros(8, 8, 2)
    flow[:, 5:] = 4.0
    weight = torch.ones(8, 8)
    weight[:, 5:] = 0.0
    smooth, support = voted_flow(flow, weight, radius=2, sigma=1.0, tolerance=0.5)
    assert smooth[:, :5].abs().max() < 1e-3
    assert support[:, 7].max() == 0 and torch.equal(smooth[:, 7], flow[:, 7])


def test_nothing_trusted_is_left_as_it_is():
    target, reference = field(1, 5, 5), field(1, 5, 5, seed=1)
    zero = torch.zeros(1, 5, 5)
    inner = SmoothFlow().inner(Features(target, reference), Masks(zero, zero))
    smooth = SmoothFlow()(Features(target, reference), Masks(zero, zero))
    assert smooth.confidence.max() == 0 and torch.equal(smooth.flow, inner.flow)


def test_it_hands_views_on_to_what_it_wraps():
    smooth = SmoothFlow(matcher="oracle")
    assert smooth.needs.truth and not smooth.needs.features
    flow = torch.ones(1, 6, 6, 2)
    views = Views(truth=Correspondence(flow, torch.ones(1, 6, 6)))
    ones = torch.ones(1, 6, 6)
    torch.testing.assert_close(smooth(None, Masks(ones, ones), views).flow, flow)


# ------------------------------------------------------------------ oracle


@pytest.mark.parametrize("step", ["previous", "current"])
def test_the_truth_is_not_known_while_sampling(sd1, step):
    for matcher in (Oracle(), SmoothFlow(matcher="oracle")):
        with pytest.raises(UserError, match="needs the true correspondence"):
            tiny_sampler(sd1, matcher=matcher, extractor=DiffusionFeatures(step=step))


def test_truth_is_brought_to_the_grid():
    """Pixels move by (4, 0); of the first cell's four pixels one is known, of the last none."""
    flow = torch.full((1, 4, 4, 2), float("nan"))
    confidence = torch.zeros(1, 4, 4)
    flow[0, :, :2], confidence[0, :, :2] = torch.tensor([2.0, 0.0]), 1.0
    confidence[0, 0, 1] = confidence[0, 1, 0] = confidence[0, 1, 1] = 0
    sized = resize_correspondence(Correspondence(flow, confidence), 2, 2)
    assert sized.flow[0].tolist() == [[[1, 0], [0, 0]], [[1, 0], [0, 0]]]
    assert sized.confidence[0].tolist() == [[0.25, 0], [1, 0]]
    finer = resize_correspondence(Correspondence(flow, confidence), 8, 8)
    assert finer.flow[0, 7, 0].tolist() == [4, 0]
    ones = torch.ones(1, 2, 2)
    views = Views(truth=Correspondence(flow, confidence))
    assert torch.equal(Oracle()(None, Masks(ones, ones), views).flow, sized.flow)
