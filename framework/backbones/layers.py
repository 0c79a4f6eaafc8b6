"""Which modules of a diffusers network are attention layers, and over what."""

from __future__ import annotations

from torch import nn


def _is_attention(module: nn.Module) -> bool:
    from diffusers.models.attention_processor import Attention  # slow to import

    return isinstance(module, Attention)


def is_self_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer over the image alone."""
    return _is_attention(module) and not module.is_cross_attention


def is_cross_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer over the text."""
    return _is_attention(module) and bool(module.is_cross_attention)


def anything(module: nn.Module) -> bool:
    """Every module."""
    return True
