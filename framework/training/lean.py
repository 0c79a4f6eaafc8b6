"""Training in less memory: activations are computed again on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def lean(network: Any, enabled: bool) -> Iterator[None]:
    """Gradient checkpointing while the context lasts."""
    changes = enabled and not network.is_gradient_checkpointing
    if changes:
        network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if changes:
            network.disable_gradient_checkpointing()
