"""Smoothing of a flow that leaves its edges alone: the mode of the neighbours' votes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from matchers.functional import BUDGET

#: Votes that may become the mode: the weightiest of a neighbourhood.
CANDIDATES = 25


def neighbours(grid: Tensor, radius: int) -> Tensor:
    """Values of the square window around each cell, zeros outside.

    Args:
        grid: (C, H, W).
        radius: in cells.

    Returns:
        (H * W, K, C) with K = (2 radius + 1)^2, row by row.
    """
    side = 2 * radius + 1
    patches = F.unfold(grid[None], side, padding=radius)[0]  # (C * K, H * W)
    return patches.unflatten(0, (len(grid), side * side)).permute(2, 1, 0)


def voted_flow(
    flow: Tensor, weight: Tensor, radius: int, sigma: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Weighted mean of those neighbours that agree with each other most.

    Every neighbour votes with its weight, less the farther away it is. Among the weightiest votes
    (:data:`CANDIDATES`) the one that most others agree with, within the tolerance, is found, and
    the mean of the votes around it is taken, so an outlier is replaced by what surrounds it and
    the two sides of an edge do not mix.

    Args:
        flow: (H, W, 2) in cells.
        weight: (H, W), at least 0.
        radius: of the window, in cells.
        sigma: standard deviation of the distance's weight, in cells.
        tolerance: standard deviation of the agreement, in cells of flow.

    Returns:
        The flow (H, W, 2), a cell's own where no neighbour has weight; and the support (H, W) in
        [0, 1]: of the weight the neighbourhood could have, the share that agrees with that flow.
    """
    height, width = weight.shape
    votes = neighbours(flow.movedim(-1, 0), radius)
    weights = neighbours(weight[None], radius)[..., 0]
    inside = neighbours(torch.ones_like(weight)[None], radius)[..., 0]
    span = torch.arange(-radius, radius + 1, device=flow.device, dtype=flow.dtype)
    near = torch.exp(-(span[:, None].square() + span.square()) / (2 * sigma**2)).flatten()
    weights, possible = weights * near, (inside * near).sum(dim=-1)
    means, supports = [], []
    count = min(CANDIDATES, votes.shape[1])
    step = max(1, BUDGET // (votes.shape[1] * count))
    for vote, mass in zip(votes.split(step), weights.split(step), strict=True):
        # The mode is a choice, so no gradient runs through it.
        heavy, index = mass.detach().topk(count, dim=-1)
        chosen = vote.gather(1, index[..., None].expand(-1, -1, 2))
        agreement = _agreement(chosen.detach()[:, :, None], vote.detach()[:, None], tolerance)
        score = (agreement @ mass.detach()[..., None])[..., 0].masked_fill(heavy <= 0, -math.inf)
        best = score.argmax(dim=-1)[:, None, None].expand(-1, 1, 2)
        agreed = mass * _agreement(vote, chosen.gather(1, best), tolerance)
        support = agreed.sum(dim=-1)
        means.append((agreed[..., None] * vote).sum(dim=1) / support.clamp_min(1e-12)[:, None])
        supports.append(support)
    mean, support = torch.cat(means), torch.cat(supports)
    known = (support > 1e-6)[:, None]
    mean = torch.where(known, mean, flow.flatten(0, 1))
    share = (support / possible).clamp(0, 1)
    return mean.unflatten(0, (height, width)), share.unflatten(0, (height, width))


def _agreement(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    return torch.exp(-(a - b).square().sum(dim=-1) / (2 * tolerance**2))
