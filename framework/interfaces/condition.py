"""Text as the network sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Text condition of some rows.

    Attributes:
        embeds: (rows, tokens, width), what attention reads.
        added: further conditioning by name (pooled text, sizes, a guidance embedding), each
            (rows, ...).
    """

    embeds: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def stack(conditions: list[Condition]) -> Condition:
        """Concatenate along the rows."""
        names = conditions[0].added
        return Condition(
            torch.cat([condition.embeds for condition in conditions]),
            {
                name: torch.cat([condition.added[name] for condition in conditions])
                for name in names
            },
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """Apply a function to every tensor (rows, ...)."""
        return Condition(
            function(self.embeds), {name: function(value) for name, value in self.added.items()}
        )


@dataclass(frozen=True)
class TokenSequence:
    """One tokenizer's part of the tokens that attention reads.

    Attributes:
        token_ids: text -> token ids without special tokens.
        start: place of a prompt's first token among those of :attr:`Condition.embeds`.
        room: how many of a prompt's tokens fit.
    """

    token_ids: Callable[[str], list[int]]
    start: int
    room: int


def clip_sequence(pipe: Any, tokenizer: Any) -> TokenSequence:
    """The tokens of a CLIP-like tokenizer: a start token, the prompt, an end token, padding.

    Args:
        pipe: expands words of several vectors, if it can.
        tokenizer: its tokenizer.
    """

    def ids(text: str) -> list[int]:
        if hasattr(pipe, "maybe_convert_prompt"):
            text = pipe.maybe_convert_prompt(text, tokenizer)
        return tokenizer(text, add_special_tokens=False).input_ids

    return TokenSequence(ids, 1, int(tokenizer.model_max_length) - 2)
