"""Counting floating-point operations, rows and memory, without computing if so wished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from framework.matchbench.memory import peak_memory

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


#: Attention as the CPU runs it, which torch's counter does not know; the same formulas.
ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
#: Operators whose large results are not worth computing when nobody looks at the values.
CHEAP = {
    aten.native_group_norm, aten.native_layer_norm, aten.silu, aten.gelu, aten.add, aten.mul,
    aten.cat, aten.clone, aten._to_copy, aten._softmax, aten.div, aten.upsample_nearest2d,
    aten.native_group_norm_backward, aten.native_layer_norm_backward, aten.silu_backward,
    aten.gelu_backward, aten.max, aten.argmax, aten._linalg_eigh,
}  # fmt: skip
_LARGE = 2**16


class Hollow(TorchDispatchMode):
    """Large results are zeros of the right shape instead of being computed.

    Shapes, control flow and memory stay those of a real run, so operations and bytes can be counted
    for models that are far too large to be run here.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry and packet not in ON_CPU and packet not in CHEAP:
            return func(*args, **kwargs)
        if not self._worth(args):
            return func(*args, **kwargs)
        device = next(leaf.device for leaf in _tensors(args))
        shapes = func(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))
        return tree_map(lambda leaf: _zeros(leaf, device), shapes)

    def _worth(self, args: Any) -> bool:
        tensors = _tensors(args)
        decides = any(leaf.dtype == torch.bool for leaf in tensors)  # a check, not a computation
        return not decides and any(leaf.numel() >= _LARGE for leaf in tensors)


def _tensors(args: Any) -> list[torch.Tensor]:
    return [
        leaf for leaf in torch.utils._pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)
    ]


def _to_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf


def _zeros(leaf: Any, device: torch.device) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    if device.type == "cpu" and leaf.dtype in (torch.float32, torch.int64):
        kind = "float32" if leaf.dtype == torch.float32 else "int64"
        return torch.from_numpy(
            np.zeros(leaf.shape, dtype=kind)
        )  # pages nobody touches cost nothing
    return torch.zeros(leaf.shape, dtype=leaf.dtype, device=device)


class _OneModule:
    """Stands in for the counter's module tracker: everything belongs to the whole."""

    parents = ("Global",)
    is_bw = False

    def __enter__(self) -> _OneModule:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@dataclass(frozen=True)
class Count:
    """What a call took.

    Attributes:
        flops: floating-point operations, as torch's counter counts (a multiply-add is two).
        rows: rows of all the network's evaluations together.
        peak: bytes of the tensors that lived at the same time, beside the weights.
    """

    flops: float
    rows: float
    peak: float


def count(
    call: Callable[[], Any], network: torch.nn.Module, hollow: bool = True, warm: bool = False
) -> Count:
    """Run a call and count.

    Args:
        call: what to run; it may evaluate the network any number of times.
        warm: run it once before, uncounted.
        network: whose rows are counted.
        hollow: skip the large computations; the counts are the same.
    """
    counter = FlopCounterMode(display=False, custom_mapping=ON_CPU)
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]  # its own hooks fail under torch.autograd.grad
    device = next(network.parameters()).device

    def counted() -> None:
        with counter:
            call()

    with Hollow() if hollow else nullcontext():
        if warm:
            call()
        with rows_of(network) as rows:
            peak = peak_memory(counted, torch.device("cpu") if hollow else device)
    return Count(float(counter.get_total_flops()), float(sum(rows)), float(peak))


@contextmanager
def rows_of(network: torch.nn.Module) -> Iterator[list[int]]:
    """Rows of each evaluation of a network while the context lasts."""
    rows: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(_tensors([*args, *kwargs.values()])[0]))

    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()
