"""Joint PCA: exact, per pair."""

from __future__ import annotations

import pytest
import torch

from framework.extractors.pca import joint_pca, resized_joint_pca
from framework.geometry import resize_grid


def grids(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, 12)
    return (torch.randn(2, 3, 5, 4, 12, generator=generator) * scale).unbind()


def test_it_is_the_principal_components_of_the_union():
    target, reference = grids()
    got_target, got_reference = joint_pca(target, reference, 4)
    assert got_target.shape == (3, 5, 4, 4)
    for row in range(3):
        union = torch.cat([target[row].flatten(0, 1), reference[row].flatten(0, 1)])
        centred = union - union.mean(dim=0)
        _, _, v = torch.linalg.svd(centred, full_matrices=False)
        expected = centred @ v[:4].T
        got = torch.cat([got_target[row].flatten(0, 1), got_reference[row].flatten(0, 1)])
        torch.testing.assert_close(got.abs(), expected.abs(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(got @ got.T, expected @ expected.T, atol=1e-4, rtol=1e-3)


def test_pairs_do_not_depend_on_each_other():
    target, reference = grids()
    together = joint_pca(target, reference, 4)[0]
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(joint_pca(target[one], reference[one], 4)[0], together[one])


def test_all_components_keep_all_distances():
    target, reference = grids()
    for dim in (12, 100):
        x, y = joint_pca(target, reference, dim)
        assert x.shape[-1] == 12
        torch.testing.assert_close(
            (x - y).norm(dim=-1), (target - reference).norm(dim=-1), atol=1e-4, rtol=1e-4
        )


def test_constant_grids_give_zeros():
    flat = torch.ones(1, 3, 3, 6)
    x, y = joint_pca(flat, flat, 2)
    assert x.abs().max() == y.abs().max() == 0


def test_global_randomness_is_not_used():
    before = torch.random.get_rng_state()
    joint_pca(*grids(), 3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dim", [3, 6, 99])
@pytest.mark.parametrize(("height", "width"), [(5, 4), (9, 12)])
def test_resizing_after_the_projection_gives_what_resizing_before_does(dim, height, width):
    generator = torch.Generator().manual_seed(0)
    target = 3 + torch.randn(4, 6, 5, 4, generator=generator)
    reference = 2 + torch.randn(2, 6, 5, 4, generator=generator)
    got = resized_joint_pca(target, reference, dim, height, width)
    beside = reference.repeat_interleave(2, dim=0)
    sized = [
        resize_grid(grid.permute(0, 2, 3, 1), height, width, align_corners=True)
        for grid in (target, beside)
    ]
    expected = joint_pca(*sized, dim)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        # Components have no sign: compare what they are used for.
        ours = one.flatten(1, 2) @ got[1].flatten(1, 2).mT
        theirs = other.flatten(1, 2) @ expected[1].flatten(1, 2).mT
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
