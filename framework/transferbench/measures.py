"""How far a picture is from the true one, where, and in what respect; pure tensor functions.

Pictures are (3, S, S) in [-1, 1]; errors are in [0, 1], the difference of two colours as a share of
the whole range.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

REGIONS = ("object", "hidden", "background")


def regions(mask: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """The pixels each error is a mean over, bool (S, S) each.

    Args:
        mask: the object's pixels, bool (S, S).
        visible: those the reference shows, bool (S, S).
    """
    return {"object": mask & visible, "hidden": mask & ~visible, "background": ~mask}


def colour_error(result: Tensor, truth: Tensor, where: Tensor) -> float:
    """Mean absolute difference over pixels and channels, in [0, 1]; NaN where there is no pixel.

    Args:
        result: (3, S, S).
        truth: (3, S, S).
        where: the pixels that count, bool (S, S).
    """
    difference = (result - truth).abs().mean(dim=0) / 2
    return float(difference[where].mean()) if bool(where.any()) else math.nan


def region_psnr(result: Tensor, truth: Tensor, where: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over some pixels; NaN where there is none.

    Args:
        result: (3, S, S).
        truth: (3, S, S).
        where: the pixels that count, bool (S, S).
    """
    squared = (result - truth).square().mean(dim=0) / 4
    if not bool(where.any()):
        return math.nan
    return float(-10 * torch.log10(squared[where].mean().clamp_min(1e-10)))


def pattern_contrast(picture: Tensor, parts: Tensor, window: int = 9) -> float:
    """Mean local standard deviation inside the object's parts, in [0, 1].

    Says whether a pattern is there, whatever its phase; edges between parts do not count.

    Args:
        picture: (3, S, S).
        parts: part of each pixel, 0 off the object, int (S, S).
        window: side of the neighbourhood in pixels, odd.
    """
    spreads: list[Tensor] = []
    for part in parts.unique():
        inside = (parts == part).float()[None]
        if int(part) == 0 or float(inside.sum()) < window:
            continue
        count = _box(inside, window)
        mean = _box(picture * inside, window) / count.clamp_min(1)
        square = _box(picture.square() * inside, window) / count.clamp_min(1)
        deviation = (square - mean.square()).clamp_min(0).mean(dim=0).sqrt() / 2
        spreads.append(deviation[(inside[0] > 0) & (count[0] >= window)])
    found = torch.cat(spreads) if spreads else torch.empty(0)
    return float(found.mean()) if len(found) else math.nan


def _box(values: Tensor, window: int) -> Tensor:
    """Sum over a square neighbourhood of each pixel, (C, S, S)."""
    return F.avg_pool2d(values[None], window, 1, window // 2)[0] * window**2


def structure_kept(result: Tensor, source: Tensor, mask: Tensor, margin: int = 3) -> float:
    """Correlation of the outlines' strength with the source's around the object, in [-1, 1].

    Compares gradient magnitudes within ``margin`` pixels of the object's outline, where a picture
    changes whatever the object's colours are.

    Args:
        result: (3, S, S).
        source: what the result was drawn over, (3, S, S).
        mask: the object's pixels, bool (S, S).
        margin: half width of the band, pixels.
    """
    inside = mask.float()[None, None]
    size = 2 * margin + 1
    grown = F.max_pool2d(inside, size, 1, margin)
    shrunk = 1 - F.max_pool2d(1 - inside, size, 1, margin)
    band = (grown - shrunk)[0, 0] > 0
    if int(band.sum()) < 2:
        return math.nan
    strengths = torch.stack([_gradient(result)[band], _gradient(source)[band]])
    return float(torch.corrcoef(strengths)[0, 1])


def _gradient(picture: Tensor) -> Tensor:
    """Magnitude of the gradient, summed over channels, (S, S)."""
    padded = F.pad(picture[None], (1, 1, 1, 1), mode="replicate")[0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return (across.square() + down.square()).sum(dim=0).sqrt()


def removed_share(error: float, nothing: float, floor: float) -> float:
    """Share of the correctable error that is gone: (e_none - e) / (e_none - e_floor).

    Args:
        error: of the result.
        nothing: with nothing injected.
        floor: of the truth through the autoencoder alone.

    Returns:
        1 where only the autoencoder's error is left, 0 where nothing was gained, negative where the
        result is worse than that; NaN where there was nothing to correct.
    """
    correctable = nothing - floor
    return (nothing - error) / correctable if correctable > 1e-6 else math.nan
