"""Joint principal component analysis of two descriptor grids, exact and deterministic."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.geometry import resize_grid


def joint_pca(target: Tensor, reference: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Project both grids on the principal components of their union, pair by pair.

    The components are eigenvectors of the channel covariance of all positions of both grids, after
    the common mean is subtracted. A ``dim`` of at least C keeps everything (a rotation).

    Args:
        target: (B, H, W, C).
        reference: (B, H', W', C).
        dim: number of components, at least 1.

    Returns:
        (B, H, W, k) and (B, H', W', k) with k = min(dim, C), float32.
    """
    x, y = target.flatten(1, 2).float(), reference.flatten(1, 2).float()
    both = torch.cat([x, y], dim=1)
    mean = both.mean(dim=1, keepdim=True)
    x, y = x - mean, y - mean
    k = min(dim, both.shape[-1])
    if k < both.shape[-1]:
        centred = both - mean
        covariance = centred.transpose(1, 2) @ centred / centred.shape[1]
        # One pair at a time: a batched decomposition may round differently with the batch's size.
        basis = torch.stack(
            [torch.linalg.eigh(c).eigenvectors[:, -k:].flip(-1) for c in covariance]
        )
        x, y = x @ basis, y @ basis
    return x.unflatten(1, target.shape[1:3]), y.unflatten(1, reference.shape[1:3])


def resized_joint_pca(
    target: Tensor, reference: Tensor, dim: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Resize both grids bilinearly (align_corners=True), then :func:`joint_pca`, at less cost.

    Resizing is linear and leaves a constant as it is, so it commutes with subtracting the mean and
    with projecting: the projected grids are resized instead of the channels, the covariance of the
    resized positions is formed without them, and what it takes from the reference once for all of
    its targets.

    Args:
        target: (B, C, h, w).
        reference: (R, C, h', w') with R a divisor of B; row r stands beside the r-th B / R targets.
        dim: number of components, at least 1.
        height: rows H of the result.
        width: columns W.

    Returns:
        Two grids (B, H, W, k) with k = min(dim, C), float32.
    """
    many = len(target) // len(reference)
    x, y = target.permute(0, 2, 3, 1).float(), reference.permute(0, 2, 3, 1).float()
    # Around the reference's mean, so that little is lost when the common mean is subtracted later.
    middle = _sums(y, height, width).mean(dim=(1, 2), keepdim=True)
    y = y - middle
    x = x - middle.repeat_interleave(many, dim=0)
    shift = _sums(x, height, width).mean(dim=(1, 2), keepdim=True) / 2
    k = min(dim, x.shape[-1])
    if k == x.shape[-1]:
        x, y = x - shift, y.repeat_interleave(many, dim=0) - shift
        return _sized(x, height, width), _sized(y, height, width)
    own, beside = _gram(x, height, width), _gram(y, height, width)
    x_found, y_found = [], []
    # One pair at a time: a batched decomposition may round differently with the batch's size.
    for row in range(len(x)):
        centre = shift[row].flatten()
        scatter = own[row] + beside[row // many] - 2 * height * width * torch.outer(centre, centre)
        basis = torch.linalg.eigh(scatter / (2 * height * width)).eigenvectors[:, -k:].flip(-1)
        x_found.append((x[row] - shift[row]) @ basis)
        y_found.append((y[row // many] - shift[row]) @ basis)
    return (
        _sized(torch.stack(x_found), height, width),
        _sized(torch.stack(y_found), height, width),
    )


def _sized(grid: Tensor, height: int, width: int) -> Tensor:
    return resize_grid(grid, height, width, align_corners=True)


def _weights(size: int, larger: int, like: Tensor) -> Tensor:
    """(larger, size) matrix of the linear interpolation of ``size`` values to ``larger``."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)[:, None]
    return torch.nn.functional.interpolate(unit, larger, mode="linear", align_corners=True)[:, 0].T


def _sums(grid: Tensor, height: int, width: int) -> Tensor:
    """A grid (B, h, w, C) whose mean over the cells is that of the resized one."""
    if grid.shape[1:3] == (height, width):
        return grid
    rows, columns = grid.shape[1:3]
    across = _weights(rows, height, grid).mean(dim=0) * rows
    along = _weights(columns, width, grid).mean(dim=0) * columns
    return grid * across[:, None, None] * along[:, None]


def _gram(grid: Tensor, height: int, width: int) -> Tensor:
    """Sum over the resized cells of the outer products of their channels, (B, C, C)."""
    if grid.shape[1:3] == (height, width):
        spread = grid
    else:
        across = _weights(grid.shape[1], height, grid)
        along = _weights(grid.shape[2], width, grid)
        spread = torch.einsum("ab,nbwc->nawc", across.T @ across, grid)
        spread = torch.einsum("ab,nhbc->nhac", along.T @ along, spread)
    return torch.stack(
        [a.flatten(0, 1).T @ b.flatten(0, 1) for a, b in zip(grid, spread, strict=True)]
    )
