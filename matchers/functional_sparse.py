"""Sparse matches between two pictures -> a dense flow with confidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.geometry import cell_grid
from framework.types import Correspondence


@dataclass(frozen=True)
class SparseMatches:
    """Matches of one pair, in shares of each picture so that they belong to no size.

    Attributes:
        target: (n, 2), (x, y) with (0, 0) the upper left corner of the picture, (1, 1) the lower
            right one.
        reference: (n, 2), likewise.
        score: (n,) in [0, 1].
    """

    target: Tensor
    reference: Tensor
    score: Tensor


def to_shares(points: Tensor, height: int, width: int) -> Tensor:
    """Pixel positions (n, 2), pixel centres at whole numbers -> shares of the picture."""
    return (points.float() + 0.5) / points.new_tensor([width, height], dtype=torch.float32)


def densify(matches: SparseMatches, height: int, width: int, sigma: float) -> Correspondence:
    """Spread sparse matches over a grid.

    A match counts for a cell as far as its score and its nearness go, exp(-d^2 / (2 sigma^2)) with
    d in cells. The flow is the mean of the matches' displacements with these weights, sharpened by
    squaring so that the nearest prevail; the confidence is the largest of the weights.

    Args:
        matches: of one pair; may be none.
        height: rows H of the grid.
        width: columns W.
        sigma: reach of a match, in cells.

    Returns:
        flow (1, H, W, 2) and confidence (1, H, W); zeros where nothing is near.
    """
    device = matches.score.device
    if not len(matches.score):
        zero = torch.zeros(1, height, width, device=device)
        return Correspondence(zero[..., None].repeat(1, 1, 1, 2), zero)
    size = torch.tensor([width, height], dtype=torch.float32, device=device)
    target, reference = matches.target * size - 0.5, matches.reference * size - 0.5
    grid = cell_grid(height, width, device).flatten(0, 1)
    flows, confidences = [], []
    step = max(1, 2**20 // len(target))
    for cells in grid.split(step):
        squared = torch.cdist(cells, target, compute_mode="donot_use_mm_for_euclid_dist").square()
        weight = matches.score.float() * torch.exp(-squared / (2 * sigma**2))  # (n, matches)
        sharp = weight.square()
        total = sharp.sum(dim=-1, keepdim=True)
        mean = sharp @ (reference - target) / total.clamp_min(1e-20)
        flows.append(torch.where(total > 1e-12, mean, 0.0))
        confidences.append(weight.amax(dim=-1))
    flow = torch.cat(flows).view(1, height, width, 2)
    return Correspondence(flow, torch.cat(confidences).view(1, height, width).clamp(0, 1))
