"""Attention processors that let an injector act inside a stock diffusers U-Net.

They follow the contract of diffusers' ``AttnProcessor2_0`` for layers on 3D input
(rows, positions, channels), the only kind in the supported families.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from framework.errors import UserError
from framework.interfaces.injector import AttentionInputs
from framework.sampling.session import Session
from framework.types import Layout

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


NAMES = ("query", "key", "value")


class InjectingProcessor:
    """Self-attention in which the targets' rows go through the session's injector.

    Args:
        session: of the sampling call.
        name: the layer's path.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name

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
        tensors = project(attn, hidden)
        session = self.session
        session.keep(self.name, dict(zip(NAMES, tensors, strict=True)))
        if not session.injecting:
            out = F.scaled_dot_product_attention(*tensors, scale=attn.scale)
            return finish(attn, out, hidden_states)
        layout = session.layout
        reference, target = zip(*map(layout.split, tensors), strict=True)
        if layout.references:
            inputs = self.inputs(attn, target, reference, session, layout, hidden.shape[1])
            out = session.attend(inputs)
        else:
            out = self.attend(attn, target, hidden.shape[1])
        if layout.references:
            own = F.scaled_dot_product_attention(*reference, scale=attn.scale)
            out = layout.join(own, out)
        return finish(attn, out, hidden_states)

    def attend(self, attn: Attention, target: Sequence[Tensor], positions: int) -> Tensor:
        """The targets' attention, beside a reference that was evaluated apart from them."""
        session = self.session
        reference = tuple(session.recalled(self.name, name) for name in NAMES)
        return session.attend(
            self.inputs(attn, target, reference, session, session.layout, positions)
        )

    @staticmethod
    def inputs(
        attn: Attention,
        target: Sequence[Tensor],
        reference: Sequence[Tensor],
        session: Session,
        layout: Layout,
        positions: int,
    ) -> AttentionInputs:
        """What an injector is given: the reference's tensors, repeated beside each target."""
        beside = {
            f"reference_{name}": layout.pair(tensor)
            if name in session.injector.uses
            else tensor[:0]
            for name, tensor in zip(NAMES, reference, strict=True)
        }
        return AttentionInputs(*target, **beside, grid=session.grid(positions), scale=attn.scale)


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
def injection(layers: dict[str, Attention], session: Session) -> Iterator[None]:
    """Let the session's injector act in these layers for the duration of the context."""
    with replaced_processors(layers, lambda name, old: InjectingProcessor(session, name)):
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
