"""Modules beside the original: the same parameters in a structure of its own.

What a method changes in a network it changes in such a copy, which takes the original's place in
the pipeline. Restoring is putting the original object back, untouched in every bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from framework.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
Undo = Callable[[], None]


def shared_copy(module: Module) -> Module:
    """A copy of the structure whose parameters and buffers are the original's own tensors.

    Replace a parameter of the copy (see :func:`replace_parameter`), never write into one.
    """
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(module, memo)


def replace_parameter(module: nn.Module, path: str, value: Tensor) -> nn.Parameter:
    """Put a value of any shape where ``path`` names a parameter, e.g. ``...to_k.weight``."""
    owner_path, _, name = path.rpartition(".")
    owner = module.get_submodule(owner_path)
    parameter = nn.Parameter(value, requires_grad=False)
    setattr(owner, name, parameter)
    return parameter


def swap(pipe: Any, parts: Mapping[str, Any], what: str) -> Undo:
    """Put other components into a pipeline.

    Args:
        pipe: the pipeline.
        parts: its new components by name.
        what: who put them there, for the message.

    Returns:
        A function that puts the old ones back; called again it does nothing.

    Raises:
        UserError: from that function, if somebody else has replaced them since.
    """
    old = {name: getattr(pipe, name, None) for name in parts}
    for name, part in parts.items():
        setattr(pipe, name, part)
    state = {"in": True}

    def undo() -> None:
        if not state["in"]:
            return
        for name, part in parts.items():
            if getattr(pipe, name) is not part:
                raise UserError(
                    f"{what} cannot be taken out: the pipeline's {name} was replaced after it. "
                    "Take out what was loaded later first, in the reverse order of loading."
                )
        for name, part in old.items():
            setattr(pipe, name, part)
        state["in"] = False

    return undo


def chain(undos: list[Undo]) -> Undo:
    """One function that undoes several steps, the last first; called again it does nothing."""

    def undo() -> None:
        while undos:
            undos[-1]()
            undos.pop()

    return undo
