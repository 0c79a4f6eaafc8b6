"""One sampling step on a page: what was predicted, what was matched, how surely, where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from PIL import Image
from torch import Tensor

from framework.extractors.pca import joint_pca
from framework.geometry import resize_mask
from framework.types import Features
from framework.viz.canvas import thumbnail
from framework.viz.flow import flow_colours, flow_wheel
from framework.viz.matches import CONFIDENCE, HEAT, SIDE, Match, warped_reference
from framework.viz.points import spread_points

TITLES = (
    ("target, as predicted clean", "reference branch, likewise", "reference, warped by the flow",
     "flow to the reference", "confidence"),
    ("mask of the target", "mask of the reference", "features of the target",
     "features of the reference", "used: mask x confidence"),
)  # fmt: skip


@dataclass(frozen=True)
class StepLook:
    """One step of one image.

    Attributes:
        step: index, from 0.
        steps: T.
        match: predicted target as ``result``, the reference branch's prediction as ``reference``,
            with the flow and confidence used in the step.
        reference_mask: soft foreground of the reference, (H, W).
        features: descriptors of the pair, (1, H, W, D) each; None if the matcher uses none.
    """

    step: int
    steps: int
    match: Match
    reference_mask: Tensor
    features: Features | None


def feature_colours(features: Features) -> tuple[Tensor, Tensor]:
    """The first three principal components of both grids together as red, green, blue.

    Equal colours are similar descriptors.

    Args:
        features: one pair.

    Returns:
        Target and reference, (H, W, 3) in [0, 1].
    """
    target, reference = (grid[0] for grid in joint_pca(features.target, features.reference, 3))
    both = torch.cat([target.flatten(0, 1), reference.flatten(0, 1)])
    low, high = both.quantile(0.01, dim=0), both.quantile(0.99, dim=0)

    def scaled(grid: Tensor) -> Tensor:
        shown = ((grid - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
        missing = 3 - shown.shape[-1]
        return torch.nn.functional.pad(shown, (0, missing)) if missing else shown

    return scaled(target), scaled(reference)


def _verdict(match: Match) -> str:
    """In words how much of the object is matched, and how coherently."""
    mask, confidence = match.mask, match.confidence
    share = float((mask * confidence).sum() / mask.sum().clamp_min(1e-6))
    right = (match.flow[:, 1:] - match.flow[:, :-1]).norm(dim=-1) <= 1.5
    down = (match.flow[1:] - match.flow[:-1]).norm(dim=-1) <= 1.5
    across = torch.minimum(mask[:, 1:], mask[:, :-1])
    along = torch.minimum(mask[1:], mask[:-1])
    total = float(across.sum() + along.sum())
    smooth = float((right * across).sum() + (down * along).sum()) / max(total, 1e-6)
    return (
        f"{100 * share:.0f} % of the object's mask is trusted; of neighbouring cells in it "
        f"{100 * smooth:.0f} % go to neighbouring places"
    )


def draw_look(look: StepLook, *, lines: int = 24) -> Figure:
    """Draw the page of one step.

    Args:
        look: the step.
        lines: match lines between target and reference.

    Returns:
        A figure with an Agg canvas; ``figure.savefig(path)`` writes it.
    """
    match = look.match
    figure = Figure(figsize=(15.6, 7.5), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.012, 0.965, f"step {look.step + 1} of {look.steps}  ·  {match.caption}", fontsize=16,
        fontweight="bold", va="center",
    )  # fmt: skip
    figure.text(0.012, 0.925, _verdict(match), fontsize=12, color="#444c58", va="center")
    axes = figure.subplots(
        2, 5,
        gridspec_kw={"left": 0.012, "right": 0.945, "top": 0.855, "bottom": 0.02, "wspace": 0.05,
                     "hspace": 0.14},
    )  # fmt: skip
    target, reference = thumbnail(match.result, SIDE), thumbnail(match.reference, SIDE)
    limit = float(match.flow.norm(dim=-1)[match.weight >= 0.25 * match.weight.max()].max()) or 1.0
    axes[0, 0].imshow(target)
    axes[0, 1].imshow(reference)
    axes[0, 2].imshow(warped_reference(match))
    axes[0, 3].imshow(_large(flow_colours(match.flow, limit).float() / 255))
    _heat(axes[0, 4], target, match.confidence)
    _heat(axes[1, 0], target, match.mask)
    _heat(axes[1, 1], reference, look.reference_mask)
    if look.features is not None:
        for axis, colours in zip(axes[1, 2:4], feature_colours(look.features), strict=True):
            axis.imshow(_large(colours))
    else:
        for axis in axes[1, 2:4]:
            axis.text(0.5, 0.5, "the matcher looks\nat pictures", ha="center", va="center",
                      transform=axis.transAxes, color="#68707c")  # fmt: skip
    _heat(axes[1, 4], target, match.weight)
    for row, names in zip(axes, TITLES, strict=True):
        for axis, name in zip(row, names, strict=True):
            axis.set(xlim=(-0.5, SIDE - 0.5), ylim=(SIDE - 0.5, -0.5), xticks=[], yticks=[])
            axis.spines[:].set_color("#c8ced6")
            axis.set_title(name, fontsize=12, pad=6)
    _lines(figure, axes[0, 0], axes[0, 1], match, lines)
    _keys(figure, limit)
    return figure


def _large(colours: Tensor) -> np.ndarray:
    """(H, W, 3) in cells as a picture of SIDE pixels with sharp cells."""
    return resize_mask(colours.permute(2, 0, 1), SIDE, SIDE).permute(1, 2, 0).numpy()


def _heat(axis: Any, picture: Image.Image, values: Tensor) -> None:
    axis.imshow(np.asarray(picture.convert("L").convert("RGB")))
    axis.imshow(
        values.numpy(), cmap=HEAT, vmin=0, vmax=1, alpha=0.68, interpolation="nearest",
        extent=(-0.5, SIDE - 0.5, SIDE - 0.5, -0.5),
    )  # fmt: skip


def _lines(figure: Figure, left: Any, right: Any, match: Match, count: int) -> None:
    height, width = match.mask.shape
    scale = np.array([SIDE / width, SIDE / height])
    points = spread_points(match.mask, count)
    for x, y in sorted(points, key=lambda p: float(match.confidence[p[1], p[0]])):
        confidence = float(match.confidence[y, x])
        here = (np.array([x, y]) + 0.5) * scale - 0.5
        there = here + match.flow[y, x].numpy() * scale
        style: dict[str, Any] = {
            "color": CONFIDENCE(confidence),
            "alpha": 0.95 if confidence >= 0.5 else 0.4,
        }
        figure.add_artist(
            ConnectionPatch(here, there, "data", "data", axesA=left, axesB=right, linewidth=1.3,
                            **style)
        )  # fmt: skip
        for axis, place in ((left, here), (right, there)):
            axis.plot(*place, "o", markersize=4.5, markeredgecolor="white", markeredgewidth=0.7,
                      **style)  # fmt: skip


def _keys(figure: Figure, limit: float) -> None:
    wheel = figure.add_axes((0.951, 0.72, 0.044, 0.092))
    wheel.imshow(flow_wheel(96))
    wheel.set_axis_off()
    figure.text(0.973, 0.83, f"flow\n{limit:.0f} cells", ha="center", fontsize=9)
    for bottom, colours, name in ((0.5, CONFIDENCE, "lines"), (0.16, HEAT, "heat")):
        axis = figure.add_axes((0.956, bottom, 0.009, 0.15))
        axis.imshow(
            np.linspace(1, 0, 64)[:, None], cmap=colours, aspect="auto", extent=(0, 1, 0, 1)
        )
        axis.set_xticks([])
        axis.yaxis.tick_right()
        axis.set_yticks([0, 1])
        figure.text(0.973, bottom + 0.165, name, ha="center", fontsize=9)
