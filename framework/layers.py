"""Naming layers of a U-Net by patterns of their module paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from framework.errors import UserError


def resolve(
    module: nn.Module, patterns: Sequence[str], kind: type | None, what: str
) -> dict[str, Any]:
    """Sub-modules whose path matches a pattern fully, by path, in the order of the module tree.

    Args:
        module: the U-Net.
        patterns: regular expressions on paths such as ``up_blocks.1.attentions.0...attn1``.
        kind: class they must have; None permits any.
        what: the option the patterns come from, for messages.

    Raises:
        UserError: a pattern is no regular expression, or matches no layer.
    """
    found: dict[str, Any] = {}
    names = [
        name for name, child in module.named_modules() if kind is None or isinstance(child, kind)
    ]
    for pattern in patterns:
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise UserError(f"{what}: '{pattern}' is no regular expression: {error}.") from error
        hits = [name for name in names if regex.fullmatch(name)]
        if not hits:
            raise UserError(
                f"{what}: no layer of this U-Net matches '{pattern}'. {_examples(names)}"
            )
        found.update({name: module.get_submodule(name) for name in hits})
    return {name: found[name] for name in names if name in found}


def self_attentions(unet: nn.Module, patterns: Sequence[str]) -> dict[str, Attention]:
    """Self-attention layers matching the patterns."""
    return resolve(unet, patterns, Attention, "injector.layers")


def _examples(names: list[str]) -> str:
    if not names:
        return "It has no such layers at all: the checkpoint is of another family."
    shown = names if len(names) <= 6 else [*names[:3], "...", *names[-2:]]
    return f"It has: {', '.join(shown)}."
