"""Where pre-training runs, and in which precision: what is fast differs between processors."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager

import torch
from torch import nn


@functools.cache
def cpu_bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32; measured once, some 20 ms.

    CPUs without instructions for it emulate bfloat16 and are tens of times slower with it.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        matrix @ matrix
        start = time.perf_counter()
        matrix @ matrix
        seconds[dtype] = time.perf_counter() - start
    return seconds[torch.bfloat16] < seconds[torch.float32]


def mixed_precision(device: torch.device | str) -> AbstractContextManager[None]:
    """Autocast to bfloat16 on accelerators, and on CPUs that are faster with it."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or cpu_bfloat16_is_fast())


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next(network.parameters()).device
