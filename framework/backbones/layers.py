"""Naming layers of a U-Net by patterns of their module paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from framework.errors import UserError


def resolve(
    module: nn.Module, patterns: Sequence[str], accept: Callable[[nn.Module], bool], what: str
) -> dict[str, Any]:
    """Sub-modules whose path matches a pattern fully, by path, in the order of the module tree.

    Args:
        module: the U-Net.
        patterns: regular expressions on paths such as ``up_blocks.1.attentions.0...attn1``.
        accept: says which sub-modules may be named.
        what: the option the patterns come from, for messages.

    Raises:
        UserError: a pattern is no regular expression, or matches no layer.
    """
    found: set[str] = set()
    layers = {name: child for name, child in module.named_modules() if name and accept(child)}
    for pattern in patterns:
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise UserError(f"{what}: '{pattern}' is no regular expression: {error}.") from error
        hits = [name for name in layers if regex.fullmatch(name)]
        if not hits:
            raise UserError(
                f"{what}: no layer of this U-Net matches '{pattern}'. {_examples(list(layers))}"
            )
        found.update(hits)
    return {name: layer for name, layer in layers.items() if name in found}


def self_attentions(unet: nn.Module, patterns: Sequence[str]) -> dict[str, Attention]:
    """Self-attention layers matching the patterns."""
    return resolve(unet, patterns, is_self_attention, "injector.layers")


def is_self_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer over the image alone."""
    return isinstance(module, Attention) and not module.is_cross_attention


def is_cross_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer over the text."""
    return isinstance(module, Attention) and module.is_cross_attention


def anything(module: nn.Module) -> bool:
    """Every module."""
    return True


def _examples(names: list[str]) -> str:
    if not names:
        return "It has no such layers at all: the checkpoint is of another family."
    shown = names if len(names) <= 6 else [*names[:3], "...", *names[-2:]]
    return f"It has: {', '.join(shown)}."
