"""Attention processors that let others look into and decide attention of a stock diffusers U-Net.

They follow the contract of diffusers' ``AttnProcessor2_0`` for layers on 3D input
(rows, positions, channels), the only kind in the supported families.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from framework.errors import UserError
from framework.interfaces.layers import Attend, LayerCall, MapObserver

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


class AttendingProcessor:
    """Self-attention whose output somebody else decides.

    Args:
        attend: maps what the layer was given to its attention, (rows, heads, H * W, d).
        name: the layer's path.
    """

    def __init__(self, attend: Attend, name: str) -> None:
        self.attend, self.name, self.called = attend, name, False

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See diffusers' ``AttnProcessor2_0``."""
        self.called = True
        hidden = hidden_states
        if attn.group_norm is not None:
            hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
        query, key, value = project(attn, hidden)
        call = LayerCall(self.name, query, key, value, hidden, attn.scale)
        return finish(attn, self.attend(call), hidden_states)


class TapProcessor:
    """Cross-attention with explicit probabilities where somebody looks at them.

    Several may stand on one layer; the attention is computed once.
    """

    stacks = True

    def __init__(self, observer: MapObserver, name: str, plain: Any) -> None:
        self.name = name
        self.observers: list[MapObserver] = [observer]
        self.plain: Any = plain
        if isinstance(plain, TapProcessor):
            self.observers = [*plain.observers, observer]
            self.plain = plain.plain

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
def attending(network: nn.Module, layers: dict[str, Attention], attend: Attend) -> Iterator[None]:
    """Let ``attend`` decide what these self-attention layers give, while the context lasts.

    Raises:
        UserError: a layer does more than plain attention, or, at an evaluation of the network, does
            not run its processor, so that nothing would be injected.
    """
    made = {name: AttendingProcessor(attend, name) for name in layers}
    with (
        replaced_processors(layers, lambda name, old: made[name]),
        _witnessed(network, list(made.values())),
    ):
        yield


@contextmanager
def _witnessed(network: nn.Module, processors: Sequence[AttendingProcessor]) -> Iterator[None]:
    """While it lasts every evaluation of the network has to call every one of the processors."""

    def begin(module: nn.Module, args: Any) -> None:
        for processor in processors:
            processor.called = False

    def end(module: nn.Module, args: Any, output: Any) -> None:
        for processor in processors:
            if not processor.called:
                raise UserError(
                    f"Layer '{processor.name}' did not run its attention processor: its forward "
                    "was replaced, or a step cache skips it, so nothing can be injected there. "
                    "Load the pipeline afresh, or leave the layer out of injector.layers."
                )

    hooks = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def tapped(layers: dict[str, Attention], observer: MapObserver) -> Iterator[None]:
    """Show these cross-attention layers' maps to somebody, while the context lasts."""
    with replaced_processors(layers, lambda name, old: TapProcessor(observer, name, old)):
        yield


@contextmanager
def detached_attention(network: nn.Module) -> Iterator[None]:
    """Cut gradients at the output of every attention layer while the context lasts."""
    hooks = [
        module.register_forward_hook(lambda m, args, out: out.detach())
        for module in network.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
