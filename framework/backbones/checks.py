"""Pipelines that would fail later are refused when they are first seen, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from framework.errors import UserError
from framework.interfaces.backbone import Backbone


def check_components(backbone: Backbone, names: Sequence[str]) -> None:
    """Refuse a pipeline without some of its components.

    Raises:
        UserError: naming what is missing.
    """
    missing = [name for name in names if getattr(backbone.pipe, name, None) is None]
    if missing:
        raise UserError(
            f"{backbone.describe()} has no {' and no '.join(missing)}; prompts are encoded, and "
            "pictures coded, by the pipeline itself. Load it with every component."
        )


def check_weights(backbone: Backbone) -> None:
    """Refuse a network whose attention cannot be replaced, or whose weights are elsewhere.

    Raises:
        UserError: with what to undo.
    """
    for name, module in backbone.network.named_modules():
        if is_compiled(module):
            where = f"its network's '{name}' is" if name else "its network is"
            raise UserError(
                f"{backbone.describe()} is not supported: {where} compiled, and attention is "
                "replaced inside; build the sampler with the uncompiled network."
            )
    for name, parameter in backbone.network.named_parameters():
        if parameter.is_meta:
            raise UserError(
                f"{backbone.describe()} is not supported: its weight '{name}' is on the meta "
                "device, as enable_sequential_cpu_offload leaves it; use enable_model_cpu_offload, "
                "or keep the network on one device."
            )


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` stands before a module."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
