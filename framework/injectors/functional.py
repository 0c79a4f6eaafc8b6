"""Tensor functions injectors are made of; tokens are (B, heads, H * W, d)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.geometry import warp


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(Q K^T * scale + bias) V, fused; the stock processors' own call.

    Args:
        query: (B, heads, N, d).
        key: (B, heads, M, d).
        value: (B, heads, M, d).
        scale: of the products; None: 1 / sqrt(d).
        bias: broadcast to (B, heads, N, M).

    Returns:
        (B, heads, N, d).
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def warp_tokens(tokens: Tensor, flow: Tensor) -> Tensor:
    """Warp a token grid by a flow in cells.

    Args:
        tokens: (B, heads, H * W, d).
        flow: (B, H, W, 2), target to reference.

    Returns:
        (B, heads, H * W, d): at each target cell the reference's token it matches.
    """
    batch, heads, _, depth = tokens.shape
    height, width = flow.shape[1:3]
    image = tokens.transpose(2, 3).reshape(batch, heads * depth, height, width)
    return warp(image, flow).reshape(batch, heads, depth, height * width).transpose(2, 3)


def blend(reference: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mix two token grids per cell, reference * w + target * (1 - w).

    Args:
        reference: (B, heads, H * W, d).
        target: likewise.
        weight: w in [0, 1], (B, H, W).

    Returns:
        (B, heads, H * W, d), laid out in memory as the target is, so that w = 0 everywhere gives
        attention the same bits in the same order.
    """
    w = weight.flatten(1)[:, None, :, None].to(target.dtype)
    return torch.where(w == 0, target, target * (1 - w) + reference * w)
