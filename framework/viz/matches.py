"""What the matcher saw: match lines, flow, masks, confidence, the reference warped by the flow."""

from __future__ import annotations

from collections.abc import Sequence
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
from framework.types import StepTrace
from framework.viz.canvas import thumbnail
from framework.viz.flow import flow_colours, flow_wheel
from framework.viz.points import spread_points

SIDE = 384
CONFIDENCE = colormaps["RdYlGn"]
HEAT = "magma"
TITLES = (
    "reference",
    "result and its matches",
    "flow to the reference",
    "mask of the result",
    "confidence",
    "reference, warped by the flow",
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
    """

    caption: str
    reference: Image.Image
    result: Image.Image
    flow: Tensor
    confidence: Tensor
    mask: Tensor

    @property
    def weight(self) -> Tensor:
        """Mask times confidence, (H, W): how much of the reference is taken."""
        return self.mask * self.confidence


def last_matched(trace: Sequence[StepTrace]) -> StepTrace | None:
    """The latest step whose matches were used, or None: features are cleanest at the end."""
    for step in reversed(trace):
        if step.matched and step.flow is not None:
            return step
    return None


def matches_of(
    trace: Sequence[StepTrace],
    reference: Image.Image,
    results: Sequence[Image.Image],
    captions: Sequence[str],
) -> list[Match]:
    """Matches of every target in the last matched step, from the conditional half.

    Args:
        trace: of a sampling call that drew ``results``, in their order.
        reference: the reference as the sampler used it.
        results: the N pictures.
        captions: their prompts.

    Returns:
        One for each picture; none if no step was matched.
    """
    step = last_matched(trace)
    if step is None or step.flow is None or step.confidence is None:
        return []
    count = len(results)
    flows, confidences = step.flow[-count:].float(), step.confidence[-count:].float()
    masks = torch.ones_like(confidences) if step.masks is None else step.masks.target[-count:]
    columns = zip(captions, results, flows, confidences, masks.float(), strict=True)
    return [Match(text, reference, image, *tensors) for text, image, *tensors in columns]


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
    """Draw one row of six panels for each target.

    Args:
        matches: what to show.
        title: at the top.
        lines: match lines in each row.

    Returns:
        A figure with an Agg canvas, not known to pyplot; ``figure.savefig(path)`` writes it.
    """
    count = max(len(matches), 1)
    figure = Figure(figsize=(17.4, 0.9 + 3.12 * count), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    high = 0.9 + 3.12 * count
    figure.text(0.012, 1 - 0.3 / high, title, fontsize=17, fontweight="bold", va="center")
    if not matches:
        figure.text(0.012, 0.4, "No step was matched.", fontsize=13)
        return figure
    panels = figure.subplots(
        count,
        6,
        squeeze=False,
        gridspec_kw={
            "left": 0.012,
            "right": 0.955,
            "top": 1 - 0.95 / high,
            "bottom": 0.12 / high,
            "wspace": 0.06,
            "hspace": 0.2,
        },
    )
    limit = max(float(match.flow.norm(dim=-1)[_used(match)].max()) for match in matches) or 1.0
    for row, (axes, match) in enumerate(zip(panels, matches, strict=True)):
        _row(figure, axes, match, lines, limit)
        if row == 0:
            for axis, name in zip(axes, TITLES, strict=True):
                axis.set_title(name, fontsize=12, pad=24)
        axes[0].text(
            0, 1.025, match.caption, transform=axes[0].transAxes, fontsize=11, style="italic",
            color="#444c58",
        )  # fmt: skip
    _keys(figure, high, limit)
    return figure


def _used(match: Match) -> Tensor:
    """Cells where the reference counts for something, (H, W) bool; all where it counts nowhere."""
    return match.weight >= 0.25 * match.weight.max()


def _row(figure: Figure, axes: Any, match: Match, lines: int, limit: float) -> None:
    result, reference = thumbnail(match.result, SIDE), thumbnail(match.reference, SIDE)
    height, width = match.mask.shape
    grey = np.asarray(result.convert("L").convert("RGB"))
    axes[0].imshow(reference)
    axes[1].imshow(result)
    used = resize_mask(_used(match)[None].float(), SIDE, SIDE)[0]
    colours = flow_colours(match.flow, limit).permute(2, 0, 1).float()
    strength = (0.25 + 0.75 * used)[..., None].numpy()
    large = resize_mask(colours, SIDE, SIDE).permute(1, 2, 0).numpy()
    axes[2].imshow((large * strength + 255 * (1 - strength)).round().astype(np.uint8))
    for axis, heat in ((axes[3], match.mask), (axes[4], match.confidence)):
        axis.imshow(grey)
        axis.imshow(
            heat.numpy(), cmap=HEAT, vmin=0, vmax=1, alpha=0.68, interpolation="nearest",
            extent=(-0.5, SIDE - 0.5, SIDE - 0.5, -0.5),
        )  # fmt: skip
    axes[5].imshow(warped_reference(match))
    for axis in axes:
        axis.set(xlim=(-0.5, SIDE - 0.5), ylim=(SIDE - 0.5, -0.5), xticks=[], yticks=[])
        axis.spines[:].set_color("#c8ced6")
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
