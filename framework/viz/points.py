"""Choosing which matches to show: spread over the object, always the same ones."""

from __future__ import annotations

import torch
from torch import Tensor


def spread_points(mask: Tensor, count: int) -> list[tuple[int, int]]:
    """Pick cells of the foreground that lie far from each other.

    The first is where the mask is highest, each next one the farthest from those chosen (ties: the
    first in reading order), so the choice is deterministic and covers the object.

    Args:
        mask: soft foreground (H, W) in [0, 1]; cells of at least half its maximum take part.
        count: how many.

    Returns:
        Up to ``count`` cells as (x, y); none where the mask is empty.
    """
    peak = float(mask.max()) if mask.numel() else 0.0
    if peak <= 0 or count < 1:
        return []
    ys, xs = torch.nonzero(mask >= 0.5 * peak, as_tuple=True)
    cells = torch.stack([xs, ys], dim=1).double()
    chosen = [int(mask[ys, xs].argmax())]
    distance = (cells - cells[chosen[0]]).norm(dim=1)
    while len(chosen) < min(count, len(cells)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (cells - cells[chosen[-1]]).norm(dim=1))
    return [(int(xs[i]), int(ys[i])) for i in chosen]
