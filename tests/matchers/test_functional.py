"""Nearest neighbours, in chunks and whole, and the flow made of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from matchers.functional import (
    argmax_flow,
    argmax_flows,
    argmax_flows_once,
    first_maxima,
    first_maxima_of_columns,
    mutual_neighbours,
    nearest_neighbours,
)


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_chunks_change_nothing(chunk):
    torch.manual_seed(0)
    query, keys = torch.randn(2, 60, 16), torch.randn(2, 45, 16)
    whole = (query @ keys.mT).argmax(dim=-1)
    assert torch.equal(nearest_neighbours(query, keys, chunk), whole)


def test_the_first_maximum_wins():
    query, keys = torch.ones(1, 3, 2), torch.ones(1, 4, 2)
    assert nearest_neighbours(query, keys).tolist() == [[0, 0, 0]]


def test_flow_by_hand():
    """A 1 x 3 grid whose last target cell matches the first reference cell."""
    reference = torch.eye(3)[None, None]
    target = torch.eye(3)[[0, 2, 0]][None, None]
    flow = argmax_flow(target, reference)
    assert flow[0, 0].tolist() == [[0, 0], [1, 0], [-2, 0]]
    assert argmax_flow(target.transpose(1, 2), reference.transpose(1, 2))[0, :, 0].tolist() == [
        [0, 0],
        [0, 1],
        [0, -2],
    ]


def test_memory_is_bounded_by_the_chunk():
    """64 x 64 cells against 64 x 64: the similarity matrix of 64 MiB never exists whole."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                type(self).size = max(self.size, out.numel())
            return out

    descriptors = normalize(torch.randn(1, 64, 64, 8), dim=-1)
    with Largest():
        flow = argmax_flow(descriptors, descriptors)
    assert torch.equal(flow, torch.zeros_like(flow))
    assert Largest.size <= 1024 * 4096


@pytest.mark.parametrize("chunk", [None, 1, 4, 7])
def test_both_ways_at_once(chunk):
    """With ties: the first maximum wins in both directions, however the work is cut."""
    query = torch.randint(-1, 2, (2, 10, 3), generator=torch.Generator().manual_seed(0)).float()
    keys = torch.randint(-1, 2, (2, 6, 3), generator=torch.Generator().manual_seed(1)).float()
    there, back = mutual_neighbours(query, keys, chunk)
    assert torch.equal(there, nearest_neighbours(query, keys))
    assert torch.equal(back, nearest_neighbours(keys, query))


def test_the_same_descriptors_are_matched_once():
    target, reference = torch.randn(2, 1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = argmax_flows_once(target, reference)
        assert argmax_flows_once(target, reference) is first
        again = argmax_flows_once(target.clone(), reference)
        assert again is not first and torch.equal(again[0], first[0])
        target.copy_(reference)  # in place: the same object, another content
        changed = argmax_flows_once(target, reference)
        assert torch.equal(changed[0], torch.zeros(1, 4, 4, 2))
        for each, other in zip(changed, argmax_flows(target, reference), strict=True):
            assert torch.equal(each, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_first_of_equal_maxima_is_found(dtype):
    scores = torch.tensor([[1, 3, 3], [3, 0, 3], [3, 3, -1]], dtype=dtype)
    assert first_maxima(scores).tolist() == [1, 0, 0]
    best, rows = first_maxima_of_columns(scores)
    assert best.tolist() == [3, 3, 3] and rows.tolist() == [1, 0, 0]


def test_scores_that_are_not_numbers_give_some_cell():
    scores = torch.full((3, 4), float("nan"))
    assert first_maxima(scores).max() < 4
    assert first_maxima_of_columns(scores)[1].max() < 3
