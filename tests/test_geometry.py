"""The grid convention, with known shifts."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from framework.geometry import (
    cell_grid,
    cycle_error,
    resize_features,
    resize_grid,
    resize_mask,
    warp,
)
from framework.interfaces.shapes import check_shape, grid_of
from framework.types import Features, Layout


def test_cell_grid_is_x_then_y():
    grid = cell_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[1, 2].tolist() == [2.0, 1.0]


def test_warp_fetches_from_where_the_flow_points():
    source = torch.arange(12.0).reshape(1, 1, 3, 4)
    flow = torch.zeros(1, 3, 4, 2)
    torch.testing.assert_close(warp(source, flow), source)
    flow[0, 1, 1] = torch.tensor([2.0, -1.0])  # cell (x 1, y 1) shows cell (x 3, y 0)
    torch.testing.assert_close(warp(source, flow)[0, 0, 1, 1], torch.tensor(3.0))
    flow[0, 1, 1] = torch.tensor([0.5, 0.0])
    torch.testing.assert_close(warp(source, flow)[0, 0, 1, 1], torch.tensor(5.5))
    flow[0, 1, 1] = torch.tensor([-9.0, 0.0])
    assert warp(source, flow)[0, 0, 1, 1] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (7, 3), (64, 48)])
def test_zero_flow_is_identity_on_any_grid(shape):
    source = torch.randn(2, 3, *shape)
    torch.testing.assert_close(warp(source, torch.zeros(2, *shape, 2)), source, atol=1e-4, rtol=0)


def test_warp_keeps_the_data_type():
    source = torch.randn(1, 2, 4, 4, dtype=torch.bfloat16)
    moved = warp(source, torch.zeros(1, 4, 4, 2))
    assert moved.dtype == torch.bfloat16 and torch.equal(moved, source)


def test_cycle_error_of_shifts():
    flow = torch.tensor([1.0, 0.0]).expand(1, 4, 4, 2)
    inside = cycle_error(flow, -flow)[:, :, :-1]
    torch.testing.assert_close(inside, torch.zeros_like(inside))
    there = cycle_error(flow, flow)[:, :, :-1]
    torch.testing.assert_close(there, torch.full_like(there, 2.0))


def test_resize_grid_conventions():
    row = torch.tensor([0.0, 3.0]).reshape(1, 1, 2, 1)
    aligned = resize_grid(row, 1, 4, align_corners=True).flatten()
    torch.testing.assert_close(aligned, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    centred = resize_grid(row, 1, 4).flatten()
    torch.testing.assert_close(centred, torch.tensor([0.0, 0.75, 2.25, 3.0]))
    assert resize_grid(row, 1, 2) is row


def test_resize_mask_is_nearest():
    mask = torch.tensor([[[0.1, 0.9]]])
    assert (
        resize_mask(mask, 2, 4)[0].tolist() == mask[0].repeat(2, 1).repeat_interleave(2, 1).tolist()
    )
    assert resize_mask(mask, 1, 2) is mask


@pytest.mark.parametrize(
    ("latent", "positions", "grid"),
    [
        ((64, 64), 4096, (64, 64)),
        ((64, 64), 256, (16, 16)),
        ((24, 32), 48, (6, 8)),
        ((15, 11), 48, (8, 6)),
        ((15, 11), 12, (4, 3)),
        ((1, 8), 4, (1, 4)),
        ((16, 16), 1, (1, 1)),
    ],
)
def test_grid_of(latent, positions, grid):
    assert grid_of(positions, *latent) == grid


@pytest.mark.parametrize("positions", [7, 255, 10**6])
def test_grid_of_refuses_what_is_no_halving(positions):
    with pytest.raises(
        UserError, match=f"{positions} positions, which is no halving of the 16 x 16"
    ):
        grid_of(positions, 16, 16)


def test_check_shape():
    check_shape("x", torch.zeros(2, 3), (2, None))
    with pytest.raises(UserError, match=r"x has shape \(2, 3\); expected \(any, 4\)"):
        check_shape("x", torch.zeros(2, 3), (None, 4))
    with pytest.raises(UserError, match=r"expected \(2\)"):
        check_shape("x", torch.zeros(2, 3), (2,))
    with pytest.raises(UserError, match="x is a list; expected a torch.Tensor"):
        check_shape("x", [1], (1,))


@pytest.mark.parametrize("halves", [1, 2])
def test_layout_puts_the_reference_beside_each_target(halves):
    layout = Layout(halves=halves, targets=3)
    reference = torch.arange(halves) + 100
    assert layout.pairs == 3 * halves
    assert layout.pair(reference).tolist() == [100, 100, 100, 101, 101, 101][: 3 * halves]


def test_descriptors_on_another_grid_are_unit_vectors_again():
    features = Features(*torch.nn.functional.normalize(torch.randn(2, 1, 4, 6, 5), dim=-1))
    assert resize_features(features, 4, 6) is features
    coarse = resize_features(features, 2, 3)
    assert coarse.target.shape == coarse.reference.shape == (1, 2, 3, 5)
    torch.testing.assert_close(coarse.target.norm(dim=-1), torch.ones(1, 2, 3))


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (6, 1), (1, 1), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_warp_has_the_bits_of_kornia(size, dtype):
    """Whose import takes longer than all of ours."""
    from kornia.geometry.transform import remap

    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3, 4, *size, generator=generator).to(dtype)
    flow = 2 * torch.randn(3, *size, 2, generator=generator)
    where = cell_grid(*size) + flow
    x, y = where[..., 0], where[..., 1]
    expected = remap(source.float(), x, y, "bilinear", "zeros", align_corners=True)
    assert torch.equal(warp(source, flow), expected.to(dtype))
    assert warp(source[:0], flow[:0]).shape == (0, 4, *size)
