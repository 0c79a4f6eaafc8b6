"""How much memory a call takes for its tensors at the same time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes that tensors made during a call took at most, beside what was there before.

    On a GPU the allocator's own count; elsewhere the storages of every tensor an operator
    returned, for as long as they live (what an operator needs inside itself is not seen).

    Args:
        call: runs once, its result is dropped.
        device: where it computes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with _Watch() as watch:
        call()
    return watch.peak


class _Watch(TorchDispatchMode):
    """Counts the bytes of living storages that were made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if _counts(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _counts(leaf) and _key(leaf) not in given and _key(leaf) not in self._known:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def forget() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, forget)


def _counts(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.device.type != "meta"


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
