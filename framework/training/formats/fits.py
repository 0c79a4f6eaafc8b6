"""Whether weights fit a network; if not, both shapes are said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(module: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's parameters and buffers."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def widths_of(module: Any) -> str:
    """How wide a network is, in the words of its configuration."""
    config = getattr(module, "config", {})
    said = {
        key: getattr(config, key, None)
        for key in ("block_out_channels", "cross_attention_dim", "hidden_size")
    }
    return ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)


def check_shapes(source: object, got: Shapes, module: Any, what: str = "U-Net") -> None:
    """Refuse weights whose names or shapes are not those of a network.

    Args:
        source: where they are from, for the message.
        got: name -> shape; it need not have every name the network has.
        module: the network.
        what: its name in the message.

    Raises:
        UserError: naming the first weight that differs, with both shapes.
    """
    expected = shapes_of(module)
    for name, shape in got.items():
        if name not in expected:
            raise UserError(
                f"{source} has the weight '{name}' {tuple(shape)}, but this model's {what} "
                f"({widths_of(module)}) has no such weight. It was made for another "
                "family of models; load that one with model.path=."
            )
        if tuple(shape) != expected[name]:
            raise UserError(
                f"{source} does not fit this model's {what}: '{name}' has shape {tuple(shape)} "
                f"there, {expected[name]} here. It was made for another family of models; load "
                "that one with model.path=."
            )
