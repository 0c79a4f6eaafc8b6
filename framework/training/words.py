"""New words in a pipeline: tokens in the tokenizer, rows beside the frozen embedding.

Nothing of the pipeline is overwritten: the tokenizer is replaced by an extended copy and the
embedding by a module that holds the new rows, and the undo puts the original objects back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framework.concepts.text import unknown_words
from framework.errors import UserError, nearest

Undo = Callable[[], None]


@dataclass(frozen=True)
class Tower:
    """One text encoder of a pipeline.

    Attributes:
        key: its name in files of learned embeddings.
        tokenizer_name: the pipeline's attribute with its tokenizer.
        encoder_name: the pipeline's attribute with the encoder.
    """

    key: str
    tokenizer_name: str
    encoder_name: str

    def tokenizer(self, pipe: Any) -> Any:
        """The pipeline's tokenizer."""
        return getattr(pipe, self.tokenizer_name)

    def encoder(self, pipe: Any) -> Any:
        """The pipeline's text encoder."""
        return getattr(pipe, self.encoder_name)

    def width(self, pipe: Any) -> int:
        """Width d of its token embeddings."""
        return int(self.encoder(pipe).get_input_embeddings().weight.shape[1])


def towers(pipe: Any) -> list[Tower]:
    """The text encoders a pipeline has: one, or two for Stable Diffusion XL."""
    known = (
        Tower("clip_l", "tokenizer", "text_encoder"),
        Tower("clip_g", "tokenizer_2", "text_encoder_2"),
    )
    return [tower for tower in known if getattr(pipe, tower.encoder_name, None) is not None]


def word_tokens(placeholder: str, vectors: int) -> list[str]:
    """Tokens of a placeholder, as diffusers names them: ``<t>``, ``<t>_1``, ``<t>_2``, ..."""
    return [placeholder, *(f"{placeholder}_{index}" for index in range(1, vectors))]


def check_placeholder(pipe: Any, placeholder: str) -> None:
    """Refuse a placeholder that cannot become a new word.

    Raises:
        UserError: it is empty, has a blank in it, or is in a vocabulary already.
    """
    if not placeholder or placeholder.split() != [placeholder]:
        raise UserError(
            f"The placeholder is '{placeholder}'; expected one new word without blanks, e.g. "
            "concept.placeholder='<my-duck>'."
        )
    for tower in towers(pipe):
        vocabulary = tower.tokenizer(pipe).get_vocab()
        for token in (placeholder, f"{placeholder}_1", f"{placeholder.lower()}</w>"):
            if token in vocabulary:
                raise UserError(
                    f"The placeholder '{placeholder}' is already in this model's vocabulary (as "
                    f"'{token}'). Choose a new word, e.g. concept.placeholder='<{placeholder}2>', "
                    "or unload the concept that uses it."
                )


def check_known(pipe: Any, text: str, what: str) -> None:
    """Refuse words that one of the tokenizers does not know.

    Args:
        pipe: the pipeline.
        text: plain words.
        what: where they came from, for the message.

    Raises:
        UserError: naming each word and the nearest known one.
    """
    for tower in towers(pipe):
        tokenizer = tower.tokenizer(pipe)
        words = unknown_words(tokenizer, text)
        if words:
            known = tokenizer.init_kwargs.get("words") or []
            named = " ".join(f"'{word}'.{nearest(word, known)}" for word in words)
            raise UserError(
                f"{what} '{text}' has words this model does not know: {named} Use words it knows."
            )


def check_lengths(pipe: Any, sentences: Sequence[str], placeholder: str, extra: int) -> None:
    """Refuse training sentences that do not fit: a cut-off one would train on something else.

    Args:
        pipe: the pipeline.
        sentences: with the concept filled in.
        placeholder: the new word in them.
        extra: tokens the placeholder will have; 0: it is a known word.

    Raises:
        UserError: naming the first that is too long.
    """
    for tower in towers(pipe):
        tokenizer = tower.tokenizer(pipe)
        for sentence in sentences:
            known = sentence.replace(placeholder, " ") if extra else sentence
            length = len(tokenizer(known).input_ids) + extra
            if length > tokenizer.model_max_length:
                vectors = f" with {extra} vector(s)" if extra else ""
                raise UserError(
                    f"The training sentence '{sentence}' has {length} tokens{vectors}; the text "
                    f"encoder reads {tokenizer.model_max_length}. Use fewer vectors or shorter "
                    "templates."
                )


def check_widths(pipe: Any, rows: Mapping[str, Tensor], source: object) -> None:
    """Refuse rows that were trained for another text encoder.

    Args:
        pipe: the pipeline.
        rows: (n, d) by the tower's key.
        source: the file they are from, for the message.

    Raises:
        UserError: with both widths.
    """
    for tower in towers(pipe):
        if tower.key not in rows:
            continue
        got, expected = rows[tower.key].shape[1], tower.width(pipe)
        if got != expected:
            raise UserError(
                f"{source} holds embeddings of width {got} (shape {tuple(rows[tower.key].shape)}), "
                f"but this model's text encoder has width {expected} (it needs "
                f"({len(rows[tower.key])}, {expected})). They were trained for another model: load "
                "that one, or train the concept for this one."
            )


def initial_rows(pipe: Any, tower: Tower, text: str, vectors: int) -> Tensor:
    """Start values from the embeddings of known words.

    As many tokens as vectors give one each; more are averaged in equal groups; fewer are repeated.

    Args:
        pipe: the pipeline.
        tower: which encoder.
        text: the words.
        vectors: number n of rows.

    Returns:
        (n, d) float32 on the encoder's device.

    Raises:
        UserError: the text has no token.
    """
    ids = tower.tokenizer(pipe)(text, add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"The initializer '{text}' has no word; give one, e.g. the class name.")
    table = tower.encoder(pipe).get_input_embeddings().weight.detach().float()
    rows = table[torch.tensor(ids, device=table.device)]
    if len(ids) < vectors:
        return rows[torch.arange(vectors, device=table.device) % len(ids)].clone()
    return torch.stack([group.mean(dim=0) for group in rows.tensor_split(vectors)])


class TrainedWords(nn.Module):
    """A frozen embedding with further rows that somebody else owns and trains.

    The rows are not registered here, so the encoder's parameters, its data type and its state are
    those of the frozen model.

    Args:
        base: the frozen embedding.
        rows: (n, d) parameter.
        first: token id of row 0; the others follow it.
    """

    def __init__(self, base: nn.Module, rows: Tensor, first: int) -> None:
        super().__init__()
        self.base = base
        self.first = first
        self._held = (rows,)

    @property
    def weight(self) -> Tensor:
        """The frozen table (V, d)."""
        table: Tensor = self.base.weight  # type: ignore[assignment]
        return table

    def forward(self, ids: Tensor) -> Tensor:
        """(...,) token ids -> (..., d) embeddings."""
        (rows,) = self._held
        index = ids - self.first
        new = (index >= 0) & (index < len(rows))
        known: Tensor = self.base(ids.masked_fill(new, 0))
        learned = rows.to(known.dtype)[index.masked_fill(~new, 0)]
        return torch.where(new[..., None], learned, known)


def add_words(pipe: Any, placeholder: str, rows: Mapping[str, Tensor], *, trained: bool) -> Undo:
    """Add a placeholder to every text encoder of a pipeline.

    Args:
        pipe: the pipeline; its tokenizers and embeddings are replaced until the undo.
        placeholder: the new word.
        rows: (n, d) by the tower's key; a tower without rows is left alone.
        trained: keep the rows apart so that gradients reach them, instead of one larger table.

    Returns:
        A function that restores the pipeline. Several placeholders are taken out in the reverse
        order; it then does nothing when called again.

    Raises:
        UserError: see :func:`check_placeholder`; or the tokenizer does not keep the word together.
    """
    check_placeholder(pipe, placeholder)
    undos: list[Undo] = []
    try:
        for tower in towers(pipe):
            if tower.key in rows:
                undos.append(_add(pipe, tower, placeholder, rows[tower.key], trained))
    except BaseException:
        for undo in reversed(undos):
            undo()
        raise

    def restore() -> None:
        while undos:
            undos[-1]()
            undos.pop()

    return restore


def _add(pipe: Any, tower: Tower, placeholder: str, rows: Tensor, trained: bool) -> Undo:
    old_tokenizer, encoder = tower.tokenizer(pipe), tower.encoder(pipe)
    old_embedding, old_size = encoder.get_input_embeddings(), encoder.config.vocab_size
    tokens = word_tokens(placeholder, len(rows))
    tokenizer = copy.deepcopy(old_tokenizer)
    tokenizer.add_tokens(tokens)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    encoded = tokenizer(" ".join(tokens), add_special_tokens=False).input_ids
    if encoded != ids or ids != list(range(ids[0], ids[0] + len(ids))):
        raise UserError(
            f"This model's tokenizer does not keep the placeholder '{placeholder}' together. Use "
            "small letters in angle brackets, e.g. concept.placeholder='<my-duck>'."
        )
    if trained:
        embedding: nn.Module = TrainedWords(old_embedding, rows, ids[0])
    else:
        embedding = _larger(old_embedding, rows, ids[0])
        encoder.config.vocab_size = len(embedding.weight)  # type: ignore[arg-type]
    encoder.set_input_embeddings(embedding)
    setattr(pipe, tower.tokenizer_name, tokenizer)

    def undo() -> None:
        if encoder.get_input_embeddings() is not embedding:
            raise UserError(
                f"'{placeholder}' cannot be taken out: other words were added after it. Take them "
                "out first, in the reverse order of loading."
            )
        encoder.set_input_embeddings(old_embedding)
        encoder.config.vocab_size = old_size
        setattr(pipe, tower.tokenizer_name, old_tokenizer)

    return undo


def _larger(base: Any, rows: Tensor, first: int) -> nn.Embedding:
    """A copy of an embedding with rows written at ``first`` and following."""
    table = base.weight.detach()
    size = max(len(table), first + len(rows))
    weight = table.new_zeros(size, table.shape[1])
    weight[: len(table)] = table
    weight[first : first + len(rows)] = rows.detach().to(table)
    larger = nn.Embedding(size, table.shape[1], padding_idx=base.padding_idx, _weight=weight)
    larger.weight.requires_grad_(base.weight.requires_grad)
    return larger.train(base.training)
