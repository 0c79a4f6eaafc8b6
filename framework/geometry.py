"""Grids, warping and resizing; the one place where the grid convention is coded.

Coordinates are cell indices, ``(x, y)``, the first cell's centre at (0, 0): align_corners=True.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.types import Features


def cell_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Cell coordinates (H, W, 2) as (x, y), float32."""
    ys, xs = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([xs, ys], dim=-1)


def warp(source: Tensor, flow: Tensor) -> Tensor:
    """Fetch ``source`` at each cell moved by ``flow`` (bilinear, zeros outside).

    Args:
        source: (B, C, H, W).
        flow: (B, H, W, 2), (x, y) in cells.

    Returns:
        (B, C, H, W) in the source's data type; out[b, :, y, x] = source[b, :, y + fy, x + fx].
    """
    height, width = source.shape[-2:]
    where = cell_grid(height, width, source.device) + flow.float()
    steps = torch.tensor([width, height], dtype=torch.float32, device=source.device) - 1
    wide = steps > 0  # a side of one cell has but one place, 0
    scale = torch.where(wide, 2.0 / steps, torch.ones_like(steps))
    place = scale * where - wide.float()  # [-1, 1] between the first and the last cell's centres
    warped = F.grid_sample(
        source.float(),
        place.expand(len(source), -1, -1, -1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    return warped.to(source.dtype)


def resize_grid(grid: Tensor, height: int, width: int, *, align_corners: bool = False) -> Tensor:
    """Bilinear resize of a descriptor grid (B, H, W, D) -> (B, height, width, D)."""
    if grid.shape[1:3] == (height, width):
        return grid
    moved = grid.permute(0, 3, 1, 2)
    sized = F.interpolate(moved, size=(height, width), mode="bilinear", align_corners=align_corners)
    return sized.permute(0, 2, 3, 1)


def resize_features(features: Features, height: int, width: int) -> Features:
    """Descriptors (B, H, W, D) resized bilinearly to a grid (height, width) and normalised again;
    themselves where they have that grid."""
    sized = (resize_grid(each, height, width) for each in (features.target, features.reference))
    if tuple(features.target.shape[1:3]) == (height, width):
        return features
    return Features(*(each / each.norm(dim=-1, keepdim=True).clamp_min(1e-12) for each in sized))


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of a soft mask (B, H, W) -> (B, height, width)."""
    if mask.shape[1:] == (height, width):
        return mask
    return F.interpolate(mask[:, None], size=(height, width), mode="nearest")[:, 0]


def cycle_error(flow: Tensor, reverse: Tensor) -> Tensor:
    """|| F(x) + warp(F_reverse, F)(x) ||_2 in cells (the left side of Eq. 8).

    Args:
        flow: target to reference, (B, H, W, 2).
        reverse: reference to target, (B, H, W, 2).

    Returns:
        (B, H, W), 0 where following both flows leads back.
    """
    back = warp(reverse.permute(0, 3, 1, 2), flow).permute(0, 2, 3, 1)
    return (flow + back).norm(dim=-1)
