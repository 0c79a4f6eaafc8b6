"""Synthetic warps whose flow is known: homographies and thin-plate splines, by kornia."""

from __future__ import annotations

from collections.abc import Callable

import torch
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import (
    get_perspective_transform,
    get_tps_transform,
    remap,
    warp_points_tps,
)
from torch import Tensor

#: A map from points (P, 2) of a warped picture to points of the original, in [-1, 1].
PointMap = Callable[[Tensor], Tensor]


def random_homography(generator: torch.Generator, strength: float) -> PointMap:
    """A projective map that moves each corner of the frame inwards or outwards.

    Args:
        generator: source of randomness.
        strength: largest shift of a corner on each axis, as a share of the side; below 0.5.
    """
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = corners + _uniform(generator, (4, 2)) * 2 * strength
    matrix = get_perspective_transform(corners[None], moved[None])
    return lambda points: transform_points(matrix, points[None])[0]


def random_spline(generator: torch.Generator, strength: float, knots: int = 4) -> PointMap:
    """A thin-plate spline that moves each knot of a regular grid.

    Args:
        generator: source of randomness.
        strength: largest shift of a knot on each axis, as a share of the side.
        knots: knots along a side.
    """
    axis = torch.linspace(-1.0, 1.0, knots)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    moved = grid + _uniform(generator, (knots * knots, 2)) * 2 * strength
    weights, affine = get_tps_transform(grid[None], moved[None])
    # Its kernels are centred at the second set of points, as kornia's documentation has it.
    return lambda points: warp_points_tps(points[None], moved[None], weights, affine)[0]


#: Kinds of warp by name: function and the strength that goes with it.
WARPS: dict[str, tuple[Callable[[torch.Generator, float], PointMap], float]] = {
    "homography": (random_homography, 0.18),
    "thin-plate spline": (random_spline, 0.09),
}


def warp_picture(image: Tensor, where: PointMap) -> Tensor:
    """The warped picture: its pixel p shows the original's ``where(p)``; mirrored at the frame.

    Args:
        image: (1, C, H, W).
        where: the map.

    Returns:
        (1, C, H, W).
    """
    height, width = image.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([columns, rows], dim=-1).flatten(0, 1).float()
    x, y = map_pixels(points, where, (height, width)).unflatten(0, (height, width)).unbind(-1)
    return remap(
        image, x[None], y[None], mode="bilinear", padding_mode="reflection", align_corners=True
    )


def map_pixels(points: Tensor, where: PointMap, size: tuple[int, int]) -> Tensor:
    """A map applied to pixels (P, 2), whole numbers being pixel centres, of a picture ``size``."""
    span = torch.tensor([size[1] - 1, size[0] - 1]) / 2
    return (where(points / span - 1) + 1) * span


def cell_centres(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The pixel nearest to each cell's centre, (cells, 2), (x, y), row by row."""
    step_y, step_x = size[0] / grid[0], size[1] / grid[1]
    rows = ((torch.arange(grid[0]) + 0.5) * step_y - 0.5).floor().clamp_min(0)
    columns = ((torch.arange(grid[1]) + 0.5) * step_x - 0.5).floor().clamp_min(0)
    ys, xs = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([xs, ys], dim=-1).flatten(0, 1)


def inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether points (P, 2) lie in a picture; bool (P,)."""
    limit = torch.tensor([size[1], size[0]]) - 0.5
    return ((points >= -0.5) & (points < limit)).all(dim=-1)


def _uniform(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1
