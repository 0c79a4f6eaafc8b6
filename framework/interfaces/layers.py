"""What an attention layer is given, who may look or decide, and how layers are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError


@dataclass(frozen=True)
class LayerCall:
    """What one self-attention layer was given in one evaluation of the network.

    Where image and text attend jointly this is the image's part, after the layer's own norms of
    queries and keys and before any rotation; a subclass overrides :meth:`attend`.

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

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> Tensor:
        """Attention of the image's queries, with whatever else the layer's keys hold (text).

        Args:
            query: (rows, heads, H * W, d).
            key: (rows, heads, K, d), before any rotation.
            value: likewise.
            bias: added to the logits, broadcast to (rows, heads, H * W, K).
            cells: (x, y) at which each key stands where positions are rotated, (rows, K, 2); None:
                on its own cell.

        Returns:
            (rows, heads, H * W, d).
        """
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)

    def plain(self) -> Tensor:
        """What the layer gives if nobody interferes, (rows, heads, H * W, d)."""
        return self.attend(self.query, self.key, self.value)


#: Decides what a layer gives, (rows, heads, H * W, d).
Attend = Callable[[LayerCall], Tensor]


class MapObserver(Protocol):
    """Somebody who looks at the attention that image cells pay to the text."""

    def wants(self, positions: int) -> bool:
        """Whether the map of a layer with that many cells is looked at now."""

    def capture(self, layer: str, probabilities: Tensor) -> None:
        """Take the map of a layer, (rows, heads, positions, tokens).

        Tokens are those of :attr:`framework.interfaces.backbone.Condition.embeds`. Where a layer's
        keys hold the image too, these are the text's columns of the whole softmax.
        """


def resolve(
    module: nn.Module, patterns: Sequence[str], accept: Callable[[nn.Module], bool], what: str
) -> dict[str, Any]:
    """Sub-modules whose path matches a pattern fully, by path, in the order of the module tree.

    Args:
        module: the network.
        patterns: regular expressions on paths such as ``up_blocks.1.attentions.0...attn1``.
        accept: says which sub-modules may be named.
        what: the option the patterns come from, for messages.

    Raises:
        UserError: a pattern is no regular expression, or matches no layer.
    """
    found: set[str] = set()
    layers = {name: child for name, child in module.named_modules() if name and accept(child)}
    for pattern in patterns:
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise UserError(f"{what}: '{pattern}' is no regular expression: {error}.") from error
        hits = [name for name in layers if regex.fullmatch(name)]
        if not hits:
            raise UserError(
                f"{what}: no layer of this model matches '{pattern}'. {_examples(list(layers))}"
            )
        found.update(hits)
    return {name: layer for name, layer in layers.items() if name in found}


def _examples(names: list[str]) -> str:
    if not names:
        return "It has no such layers at all: the checkpoint is of another family."
    shown = names if len(names) <= 6 else [*names[:3], "...", *names[-2:]]
    return f"It has: {', '.join(shown)}."
