"""Where the subject is in a picture: given masks, or an estimate from the picture alone.

The estimate takes the border for background: a cell is foreground as far as its colour and place
are unlike anything at the border, and as far as every way there crosses edges. It knows no classes
and needs no weights; it is rough, and the same for every method compared.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIDE = 64
#: Smallest range of a channel in which something may stand out.
FLAT = 0.02
GREY = (127, 127, 127)
#: Share of the edges' cost in saliency, the rest being the colours'; steps too small to be edges;
#: and what of Otsu's threshold is asked for, as the classes differ in spread.
EDGES = 0.35
SMOOTH = 0.03
LENIENT = 0.75


def subject_mask(image: Image.Image, side: int = SIDE) -> Tensor:
    """Estimate the subject's mask.

    Every cell is compared with the border's cells by colour (averaged at two scales) and, weakly,
    by distance; this is multiplied with what the cheapest way from the border costs in edges. The
    product is thresholded by Otsu's method, and cleaned by a majority filter.

    Args:
        image: a picture.
        side: of the grid.

    Returns:
        (side, side) of 0 and 1, float32; all ones where nothing stands out.
    """
    pixels = to_tensor(image, side)
    if float((pixels.amax(dim=(1, 2)) - pixels.amin(dim=(1, 2))).max()) < FLAT:
        return torch.ones(side, side)
    colours, edges = border_contrast(pixels), border_distance(pixels)
    saliency = _share(colours) ** (1 - EDGES) * _share(edges) ** EDGES
    return majority((saliency > LENIENT * otsu(saliency)).float())


def to_tensor(image: Image.Image, side: int) -> Tensor:
    """A picture as (3, side, side), float32 in [0, 1], aspect ignored."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255.0).permute(2, 0, 1)


def border_contrast(pixels: Tensor, neighbours: int = 8, reach: float = 0.35) -> Tensor:
    """How unlike the border each cell is.

    Args:
        pixels: (3, S, S) in [0, 1].
        neighbours: border cells that are averaged: the most alike.
        reach: weight of the distance, in sides, against that of colour.

    Returns:
        (S, S), not negative.
    """
    side = pixels.shape[-1]
    coarse = functional.avg_pool2d(pixels[None], 5, 1, 2, count_include_pad=False)[0]
    axis = torch.linspace(0, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([rows, columns]) * reach
    described = torch.cat([pixels, coarse, places]).flatten(1).T  # (S * S, 8)
    rim = max(1, side // 16)
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[rim : side - rim, rim : side - rim] = True
    border = described[~inside.flatten()]
    near = torch.cdist(described, border).topk(min(neighbours, len(border)), largest=False).values
    contrast = near.mean(dim=1).reshape(side, side)
    distance = ((rows - 0.5).square() + (columns - 0.5).square()).sqrt()
    return contrast * torch.exp(-((distance / 0.5) ** 2))


def border_distance(pixels: Tensor, sweeps: int = 12) -> Tensor:
    """What the cheapest way from the border costs: the steps in colour it crosses.

    Args:
        pixels: (3, S, S) in [0, 1].
        sweeps: rounds over rows and columns, forth and back; each lets ways turn twice more.

    Returns:
        (S, S), not negative; 0 at the border.
    """
    down = ((pixels[:, 1:] - pixels[:, :-1]).abs().sum(dim=0) - SMOOTH).clamp_min(0)
    right = ((pixels[:, :, 1:] - pixels[:, :, :-1]).abs().sum(dim=0) - SMOOTH).clamp_min(0)
    distance = torch.full(pixels.shape[1:], float("inf"))
    distance[0] = distance[-1] = 0
    distance[:, 0] = distance[:, -1] = 0
    for _ in range(sweeps):
        before = distance
        distance = _along(_along(distance, right).T, down.T).T
        if torch.equal(before, distance):
            break
    return distance


def _along(distance: Tensor, steps: Tensor) -> Tensor:
    """Distances after ways along rows, forth and back: (H, W) and the costs (H, W - 1) between."""
    toll = functional.pad(steps, (1, 0)).cumsum(dim=1)
    forth = (distance - toll).cummin(dim=1).values + toll
    back = (distance + toll).flip(1).cummin(dim=1).values.flip(1) - toll
    return torch.minimum(distance, torch.minimum(forth, back))


def _share(values: Tensor) -> Tensor:
    return (values / values.max().clamp_min(1e-6)).clamp_min(0)


def otsu(values: Tensor, bins: int = 64) -> float:
    """The threshold that best separates values (N,) into two classes; below them if all agree."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return low - 1.0
    counts = torch.histc(values.float(), bins, low, high).double()
    centres = torch.linspace(low, high, 2 * bins + 1, dtype=torch.float64)[1::2]
    below = counts.cumsum(0)
    above = counts.sum() - below
    weighted = (counts * centres).cumsum(0)
    mean_below = weighted / below.clamp_min(1)
    mean_above = (weighted[-1] - weighted) / above.clamp_min(1)
    between = below * above * (mean_below - mean_above).square()
    edge = int(between.argmax())
    return low + (high - low) * (edge + 1) / bins


def majority(mask: Tensor, size: int = 5) -> Tensor:
    """Each cell of a mask (H, W) gets the value of most cells around it."""
    around = functional.avg_pool2d(mask[None, None], size, 1, size // 2, count_include_pad=False)
    return (around[0, 0] >= 0.5).float()


def cut_out(image: Image.Image, mask: Tensor, margin: float = 0.1) -> Image.Image:
    """The subject alone: a square around it, grey elsewhere.

    Args:
        image: a picture.
        mask: (h, w) of 0 and 1, any size.
        margin: added to the subject's box on every side, as a share of its longer side.
    """
    picture = image.convert("RGB")
    grown = Image.fromarray((mask.numpy() * 255).astype(np.uint8)).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    grey = Image.new("RGB", picture.size, GREY)
    alone = Image.composite(picture, grey, grown)
    box = grown.point(lambda value: 255 * (value >= 128)).getbbox()
    if box is None:
        return picture
    left, top, right, bottom = box
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    x, y = (left + right) / 2, (top + bottom) / 2
    square = Image.new("RGB", (max(1, round(side)),) * 2, GREY)
    square.paste(alone, (round(side / 2 - x), round(side / 2 - y)))
    return square
