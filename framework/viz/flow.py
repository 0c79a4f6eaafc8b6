"""Flows in the usual colour wheel, and the wheel as a key."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import flow_to_image

from framework.errors import UserError


def flow_colours(flow: Tensor, limit: float | None = None) -> Tensor:
    """Colour a flow: the hue is its direction, the strength of the colour its length.

    Args:
        flow: (H, W, 2), (x, y) in cells.
        limit: length that gets the full colour, longer ones are cut to it; None takes the longest.

    Returns:
        (H, W, 3), uint8; white where the flow is 0.

    Raises:
        UserError: the shape is not (H, W, 2).
    """
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise UserError(f"A flow has shape (H, W, 2); got {tuple(flow.shape)}.")
    longest = limit if limit is not None else float(flow.norm(dim=-1).max())
    if longest <= 0:
        return torch.full((*flow.shape[:2], 3), 255, dtype=torch.uint8)
    length = flow.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cut = flow.float() * (longest / length).clamp_max(1.0)
    # flow_to_image divides by the longest vector it is given: one more column fixes that length.
    ruler = torch.zeros(flow.shape[0], 1, 2)
    ruler[..., 0] = longest
    picture = flow_to_image(torch.cat([cut.cpu(), ruler], dim=1).permute(2, 0, 1))
    return picture[:, :, :-1].permute(1, 2, 0)


def flow_wheel(side: int = 128) -> Tensor:
    """The key to :func:`flow_colours`: the colour of the flow that points from the centre there.

    Args:
        side: in pixels.

    Returns:
        (side, side, 3), uint8; white outside the circle. Right is +x, down is +y.
    """
    axis = torch.linspace(-1.0, 1.0, side)
    flow = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    picture = flow_colours(flow, limit=1.0)
    picture[flow.norm(dim=-1) > 1.0] = 255
    return picture
