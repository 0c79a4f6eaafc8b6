"""What the matcher saw: match lines, flow, masks, confidence, the reference warped by the flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from PIL import Image
from torch import Tensor

from framework.concepts.preprocess import prepare_image
from framework.geometry import resize_mask, warp
from framework.viz.canvas import thumbnail
from framework.viz.flow import flow_colours, flow_wheel
from framework.viz.points import spread_points

SIDE = 384
CONFIDENCE = colormaps["RdYlGn"]
HEAT = "magma"
#: Share of the largest weight from which on a cell counts as used, and how much of the colours is
#: left of those that are not.
USED, UNUSED = 0.25, 0.08
FADED = (
    "Faint in flow and confidence, and white in the warped reference: what is not taken from the "
    "reference (mask times confidence is small there). Lines: green is sure, red and thin is not."
)


@dataclass(frozen=True)
class Match:
    """One target beside its reference.

    Attributes:
        caption: its prompt.
        reference: the reference as the sampler used it.
        result: the picture drawn.
        flow: (H, W, 2), (x, y) in cells, result to reference.
        confidence: (H, W) in [0, 1].
        mask: soft foreground of the result (H, W) in [0, 1].
        baseline: the picture from the same noise without matching, if there is one.
        reference_mask: soft foreground of the reference (H, W) in [0, 1], if it is known.
    """

    caption: str
    reference: Image.Image
    result: Image.Image
    flow: Tensor
    confidence: Tensor
    mask: Tensor
    baseline: Image.Image | None = None
    reference_mask: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """Mask times confidence, (H, W): how much of the reference is taken."""
        return self.mask * self.confidence


def sized_reference(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """The reference as the sampler used it.

    Args:
        image: the concept's picture.
        size: (width, height) of the results in pixels.
        mode: the sampler's ``resize``.
    """
    tensor = prepare_image(image, size[1], size[0], mode)[0].permute(1, 2, 0)
    return Image.fromarray(((tensor + 1) * 127.5).round().clamp(0, 255).byte().numpy())


def warped_reference(match: Match, side: int = SIDE) -> Image.Image:
    """The reference's patches where the flow takes them, faded where they are not used.

    Args:
        match: the match.
        side: of the picture in pixels.
    """
    height, width = match.flow.shape[:2]
    picture = torch.from_numpy(np.array(thumbnail(match.reference, side), dtype=np.float32))
    cells = (
        match.flow.permute(2, 0, 1)[None]
        * torch.tensor([side / width, side / height])[None, :, None, None]
    )
    flow = torch.stack([resize_mask(c, side, side) for c in cells.unbind(1)], dim=-1)
    moved = warp(picture.permute(2, 0, 1)[None] / 255.0, flow)[0]
    weight = resize_mask(match.weight[None], side, side)
    faded = moved * weight + 0.93 * (1 - weight)
    return Image.fromarray((faded.permute(1, 2, 0) * 255).round().byte().numpy())


def draw_matches(matches: Sequence[Match], title: str, *, lines: int = 20) -> Figure:
    """Draw one row of panels for each target.

    Args:
        matches: what to show.
        title: at the top.
        lines: match lines in each row.

    Returns:
        A figure with an Agg canvas, not known to pyplot; ``figure.savefig(path)`` writes it.
    """
    count = max(len(matches), 1)
    names = ["reference", "result and its matches"]
    names += ["baseline, same noise"] if any(m.baseline for m in matches) else []
    names += ["flow to the reference"]
    names += ["mask of the reference"] if any(_there(m.reference_mask) for m in matches) else []
    names += ["mask of the result", "confidence", "reference, warped by the flow"]
    high = 1.2 + 3.12 * count
    figure = Figure(figsize=(0.9 + 2.76 * len(names), high), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.3 / high, title, fontsize=17, fontweight="bold", va="center")
    if not matches:
        figure.text(0.012, 0.4, "No step was matched.", fontsize=13)
        return figure
    figure.text(0.012, 0.12 / high, FADED, fontsize=10, color="#444c58", va="center")
    space = {"left": 0.012, "right": 0.955, "top": 1 - 0.95 / high, "bottom": 0.42 / high}
    panels = figure.subplots(
        count, len(names), squeeze=False, gridspec_kw=space | {"wspace": 0.06, "hspace": 0.2}
    )
    limit = max(float(match.flow.norm(dim=-1)[_used(match)].max()) for match in matches) or 1.0
    for row, (axes, match) in enumerate(zip(panels, matches, strict=True)):
        _row(dict(zip(names, axes, strict=True)), match, limit)
        _lines(figure, (axes[0], axes[1]), match, lines)
        if row == 0:
            for axis, name in zip(axes, names, strict=True):
                axis.set_title(name, fontsize=12, pad=24)
        axes[0].text(
            0, 1.025, match.caption, transform=axes[0].transAxes, fontsize=11, style="italic",
            color="#444c58",
        )  # fmt: skip
    _keys(figure, high, limit)
    return figure


def _there(value: object) -> bool:
    return value is not None


def _used(match: Match) -> Tensor:
    """Cells where the reference counts for something, (H, W) bool; all where it counts nowhere."""
    return match.weight >= USED * match.weight.max()


def _row(axes: Mapping[str, Any], match: Match, limit: float) -> None:
    """The panels of one target, by their titles."""
    result, reference = thumbnail(match.result, SIDE), thumbnail(match.reference, SIDE)
    used = resize_mask(_used(match)[None].float(), SIDE, SIDE)[0]
    colours = flow_colours(match.flow, limit).permute(2, 0, 1).float()
    strength = (UNUSED + (1 - UNUSED) * used)[..., None].numpy()
    large = resize_mask(colours, SIDE, SIDE).permute(1, 2, 0).numpy()
    flow = (large * strength + 255 * (1 - strength)).round().astype(np.uint8)
    pictures: dict[str, Any] = {
        "reference": reference,
        "result and its matches": result,
        "baseline, same noise": match.baseline and thumbnail(match.baseline, SIDE),
        "flow to the reference": flow,
        "reference, warped by the flow": warped_reference(match),
    }
    heats: dict[str, tuple[Image.Image, Tensor | None, Tensor | None]] = {
        "mask of the reference": (reference, match.reference_mask, None),
        "mask of the result": (result, match.mask, None),
        "confidence": (result, match.confidence, _used(match)),
    }
    for name, axis in axes.items():
        if name in pictures and pictures[name] is not None:
            axis.imshow(pictures[name])
        elif name in heats:
            _heat(axis, *heats[name])
        axis.set(xlim=(-0.5, SIDE - 0.5), ylim=(SIDE - 0.5, -0.5), xticks=[], yticks=[])
        axis.spines[:].set_color("#c8ced6")


def _heat(axis: Any, picture: Image.Image, heat: Tensor | None, used: Tensor | None) -> None:
    """Values in [0, 1] over a grey picture; faint where they are not used."""
    if heat is None:
        return
    axis.imshow(np.asarray(picture.convert("L").convert("RGB")))
    strength = torch.ones_like(heat) if used is None else UNUSED + (1 - UNUSED) * used.float()
    axis.imshow(
        heat.numpy(), cmap=HEAT, vmin=0, vmax=1, alpha=0.68 * strength.numpy(),
        interpolation="nearest", extent=(-0.5, SIDE - 0.5, SIDE - 0.5, -0.5),
    )  # fmt: skip


def _lines(figure: Figure, axes: tuple[Any, Any], match: Match, lines: int) -> None:
    """Lines from the reference (left) to the result, the surest on top."""
    height, width = match.mask.shape
    scale = np.array([SIDE / width, SIDE / height])
    points = spread_points(match.mask, lines)
    for x, y in sorted(points, key=lambda p: float(match.confidence[p[1], p[0]])):
        confidence = float(match.confidence[y, x])
        here = (np.array([x, y]) + 0.5) * scale - 0.5
        there = here + match.flow[y, x].numpy() * scale
        sure = confidence >= 0.5
        style: dict[str, Any] = {"color": CONFIDENCE(confidence), "alpha": 0.95 if sure else 0.45}
        figure.add_artist(
            ConnectionPatch(
                there, here, "data", "data", axesA=axes[0], axesB=axes[1],
                linewidth=1.5 if sure else 0.8, **style,
            )
        )  # fmt: skip
        for axis, (px, py) in ((axes[0], there), (axes[1], here)):
            axis.plot(px, py, "o", markersize=4.5, markeredgecolor="white", markeredgewidth=0.7,
                      **style)  # fmt: skip


def _keys(figure: Figure, high: float, limit: float) -> None:
    """The colour wheel and two colour bars, at the right edge."""
    top = 1 - 0.95 / high
    wheel = figure.add_axes((0.959, top - 0.72 / high, 0.038, 0.66 / high))
    wheel.imshow(flow_wheel(96))
    wheel.set_axis_off()
    figure.text(0.978, top + 0.06 / high, f"flow\n{limit:.0f} cells", ha="center", fontsize=8)
    for place, (name, colours) in enumerate(
        (("matches", CONFIDENCE), ("mask,\nconfidence", colormaps[HEAT]))
    ):
        axis = figure.add_axes((0.965, top - (1.62 + 0.98 * place) / high, 0.008, 0.6 / high))
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours), cax=axis, ticks=[0, 1])
        bar.ax.tick_params(labelsize=8)
        figure.text(0.978, top - (0.97 + 0.98 * place) / high, name, ha="center", fontsize=8)
