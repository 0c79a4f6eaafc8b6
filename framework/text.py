"""Prompts: putting the concept in, finding its tokens, refusing words nobody knows."""

from __future__ import annotations

import re
from typing import Any

from framework.errors import UserError, nearest
from framework.types import Concept

SLOT = "{}"


def fill(prompt: str, concept: Concept) -> str:
    """Put the concept into a prompt: ``{}`` becomes "placeholder class".

    A prompt that already has the placeholder is returned as it is.

    Raises:
        UserError: neither ``{}`` nor the placeholder is in the prompt.
    """
    if SLOT in prompt:
        return prompt.replace(SLOT, concept.phrase)
    key = concept.placeholder or concept.class_name
    if key and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", prompt):
        return prompt
    raise UserError(
        f"The prompt '{prompt}' does not mention the concept. Write '{SLOT}' or '{key}' where it "
        f"belongs, e.g. 'a photo of a {SLOT}'."
    )


def token_ids(pipe: Any, text: str) -> list[int]:
    """Token ids of a text without special tokens; multi-vector placeholders are expanded."""
    tokenizer = pipe.tokenizer
    if hasattr(pipe, "maybe_convert_prompt"):
        text = pipe.maybe_convert_prompt(text, tokenizer)
    return tokenizer(text, add_special_tokens=False).input_ids


def concept_positions(pipe: Any, prompt: str, concept: Concept) -> list[int]:
    """Positions, in the padded token sequence, of every sub-word of placeholder and class.

    Every occurrence of the placeholder counts, wherever it stands, and the class name where it
    follows the placeholder directly. Without a placeholder the class name alone is looked for.

    Raises:
        UserError: the concept is not in the prompt, or lies beyond the text encoder's length.
    """
    ids = token_ids(pipe, prompt)
    placeholder = token_ids(pipe, concept.placeholder) if concept.placeholder else []
    noun = token_ids(pipe, concept.class_name)
    positions: list[int] = []
    start = 0
    sought = placeholder or noun
    while start <= len(ids) - len(sought):
        if ids[start : start + len(sought)] != sought:
            start += 1
            continue
        end = start + len(sought)
        if placeholder and ids[end : end + len(noun)] == noun:
            end += len(noun)
        positions.extend(range(start, end))
        start = end
    limit = pipe.tokenizer.model_max_length - 2
    inside = [position + 1 for position in positions if position < limit]  # after the start token
    if not inside:
        where = "stands beyond the text encoder's length in" if positions else "is not in"
        raise UserError(
            f"The concept '{concept.phrase}' {where} the prompt '{prompt}'; write it with "
            f"'{SLOT}', within the first {limit} tokens."
        )
    return inside


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """Words of a text that the tokenizer does not know.

    A word is unknown if its tokens contain the unknown token or, for a tokenizer whose
    configuration lists its ``words`` (a closed vocabulary), if it is neither listed nor added.
    """
    unknown, closed = tokenizer.unk_token, tokenizer.init_kwargs.get("words")
    for token in tokenizer.get_added_vocab():
        text = text.replace(token, " ")

    def known(word: str) -> bool:
        if closed is not None:
            return word.lower() in closed
        pieces = tokenizer.tokenize(word)
        return unknown == tokenizer.eos_token or unknown not in pieces

    words = re.findall(r"<[^<>\s]+>|[^\W\d_]+(?:['-][^\W\d_]+)*|\d|[^\w\s]|_", text)
    return [word for word in dict.fromkeys(words) if not known(word)]


def check_words(tokenizer: Any, text: str) -> None:
    """Refuse a text with words the tokenizer does not know.

    Raises:
        UserError: naming each word and the nearest known one.
    """
    words = unknown_words(tokenizer, text)
    if words:
        known = tokenizer.init_kwargs.get("words") or []
        named = " ".join(f"'{word}'.{nearest(word, known)}" for word in words)
        if any(word.startswith("<") for word in words):
            named += (
                " A word in <> is a placeholder this model was not taught: learn it with "
                "'dreammatcher train' and give concept.weights=, or set concept.placeholder='' "
                "to draw by the class alone."
            )
        raise UserError(
            f"The prompt '{text}' has words this model's tokenizer does not know: {named} "
            "Rephrase it."
        )
