"""Which modules of a diffusers network are attention layers, and over what."""

from __future__ import annotations

from diffusers.models.attention_processor import Attention
from torch import nn


def is_self_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer over the image alone."""
    return isinstance(module, Attention) and not module.is_cross_attention


def is_cross_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer over the text."""
    return isinstance(module, Attention) and module.is_cross_attention


def anything(module: nn.Module) -> bool:
    """Every module."""
    return True
