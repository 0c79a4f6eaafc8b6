"""Attention processors that let others look into and decide attention of a stock diffusers U-Net.

They follow the contract of diffusers' ``AttnProcessor2_0`` for layers on 3D input
(rows, positions, channels), the only kind in the supported families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from framework.errors import UserError

#: Stock processors that compute plain attention from to_q, to_k, to_v; what replaces them is
#: equivalent when nothing is injected.
PLAIN = (AttnProcessor, AttnProcessor2_0)


def project(attn: Attention, hidden: Tensor, context: Tensor | None = None) -> list[Tensor]:
    """Queries, keys and values by the layer's own modules (so LoRA applies).

    Args:
        attn: the layer.
        hidden: (rows, N, C).
        context: text condition (rows, L, C'), or None for self-attention.

    Returns:
        Three tensors (rows, heads, N or L, d).
    """
    source = hidden if context is None else context
    if context is not None and attn.norm_cross:
        source = attn.norm_encoder_hidden_states(source)
    tensors = (attn.to_q(hidden), attn.to_k(source), attn.to_v(source))
    query, key, value = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in tensors)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    return [query, key, value]


def finish(attn: Attention, attended: Tensor, hidden: Tensor) -> Tensor:
    """Output projection, dropout, residual: (rows, heads, N, d) -> (rows, N, C)."""
    output = attended.transpose(1, 2).flatten(2).to(hidden.dtype)
    output = attn.to_out[1](attn.to_out[0](output))
    if attn.residual_connection:
        output = output + hidden
    return output / attn.rescale_output_factor


@dataclass(frozen=True)
class LayerCall:
    """What one self-attention layer was given in one evaluation of the network.

    Attributes:
        name: the layer's path.
        query, key, value: (rows, heads, H * W, d).
        hidden_state: (rows, H * W, C), normalised as the projections see it.
        scale: factor on the attention logits; None is 1 / sqrt(d).
    """

    name: str
    query: Tensor
    key: Tensor
    value: Tensor
    hidden_state: Tensor
    scale: float | None

    def plain(self) -> Tensor:
        """Plain self-attention of the rows, (rows, heads, H * W, d)."""
        return F.scaled_dot_product_attention(self.query, self.key, self.value, scale=self.scale)


class AttendingProcessor:
    """Self-attention whose output somebody else decides.

    Args:
        attend: maps what the layer was given to its attention, (rows, heads, H * W, d).
        name: the layer's path.
    """

    def __init__(self, attend: Callable[[LayerCall], Tensor], name: str) -> None:
        self.attend, self.name = attend, name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See diffusers' ``AttnProcessor2_0``."""
        hidden = hidden_states
        if attn.group_norm is not None:
            hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
        call = LayerCall(self.name, *project(attn, hidden), hidden, attn.scale)
        return finish(attn, self.attend(call), hidden_states)


class MapObserver(Protocol):
    """Somebody who looks at cross-attention maps."""

    def wants(self, positions: int) -> bool:
        """Whether the map of a layer with that many positions is looked at now."""

    def capture(self, layer: str, probabilities: Tensor) -> None:
        """Take the map of a layer, (rows, heads, positions, tokens)."""


class TapProcessor:
    """Cross-attention with explicit probabilities where somebody looks at them.

    Several may stand on one layer; the attention is computed once.
    """

    stacks = True

    def __init__(self, observer: MapObserver, name: str, plain: Any) -> None:
        inner = plain if isinstance(plain, TapProcessor) else None
        self.name = name
        self.observers = [observer] if inner is None else [*inner.observers, observer]
        self.plain = plain if inner is None else inner.plain

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See diffusers' ``AttnProcessor2_0``; where nobody looks the layer's own runs."""
        looking = [
            observer
            for observer in self.observers
            if encoder_hidden_states is not None and observer.wants(hidden_states.shape[1])
        ]
        if not looking:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, key, value = project(attn, hidden_states, encoder_hidden_states)
        rows, heads = query.shape[:2]
        probabilities = attn.get_attention_scores(
            query.flatten(0, 1), key.flatten(0, 1), attention_mask
        ).unflatten(0, (rows, heads))
        for observer in looking:
            observer.capture(self.name, probabilities)
        return finish(attn, probabilities @ value, hidden_states)


def require_plain(name: str, processor: Any) -> None:
    """Refuse a layer whose processor does more than plain attention.

    Raises:
        UserError: with what to undo.
    """
    if type(processor) not in PLAIN and not getattr(processor, "stacks", False):
        raise UserError(
            f"Layer '{name}' uses the attention processor {type(processor).__name__}; injection "
            "replaces it and can only stand in for plain attention. Undo fused projections, "
            "attention slicing, xFormers or adapters first "
            "(pipe.unfuse_qkv_projections(), pipe.disable_attention_slicing(), "
            "unet.set_default_attn_processor())."
        )


@contextmanager
def replaced_processors(layers: dict[str, Attention], make: Any) -> Iterator[None]:
    """Replace the processor of each layer, and put each back on leaving, whatever happened.

    Args:
        layers: layers by path.
        make: called with (path, the layer's own processor), returns the new processor.
    """
    saved = {name: layer.processor for name, layer in layers.items()}
    for name, processor in saved.items():
        require_plain(name, processor)
    try:
        for name, layer in layers.items():
            layer.processor = make(name, saved[name])
        yield
    finally:
        for name, layer in layers.items():
            layer.processor = saved[name]


@contextmanager
def attending(
    layers: dict[str, Attention], attend: Callable[[LayerCall], Tensor]
) -> Iterator[None]:
    """Let ``attend`` decide what these self-attention layers give, while the context lasts."""
    with replaced_processors(layers, lambda name, old: AttendingProcessor(attend, name)):
        yield


@contextmanager
def tapped(layers: dict[str, Attention], observer: MapObserver) -> Iterator[None]:
    """Show these cross-attention layers' maps to somebody, while the context lasts."""
    with replaced_processors(layers, lambda name, old: TapProcessor(observer, name, old)):
        yield


@contextmanager
def detached_attention(unet: nn.Module, enabled: bool) -> Iterator[None]:
    """Cut gradients at the output of every attention layer while the context lasts."""
    hooks = []
    try:
        if enabled:
            for module in unet.modules():
                if isinstance(module, Attention):
                    hooks.append(module.register_forward_hook(lambda m, args, out: out.detach()))
        yield
    finally:
        for hook in hooks:
            hook.remove()
