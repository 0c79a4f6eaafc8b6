"""Joint PCA: exact, per pair."""

from __future__ import annotations

import torch

from framework.extractors.pca import joint_pca


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
