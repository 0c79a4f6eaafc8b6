"""Prompts: putting the concept in, finding its tokens, refusing words nobody knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from framework.errors import UserError, nearest, unknown_name
from framework.interfaces import Backbone
from framework.interfaces.condition import TokenSequence
from framework.types import Concept

SLOT = "{}"

logger = logging.getLogger(__name__)


def fill_prompt(prompt: str, concept: Concept) -> str:
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


def concept_positions(model: Backbone, prompt: str, concept: Concept) -> list[int]:
    """Positions, in the tokens that attention reads, of every sub-word of placeholder and class.

    Every occurrence of the placeholder counts, wherever it stands, and the class name where it
    follows the placeholder directly. Without a placeholder the class name alone is looked for.

    Raises:
        UserError: the concept is not in the prompt, or lies beyond the text encoder's length.
    """
    inside, beyond = [], False
    for tokens in model.sequences:
        positions = _occurrences(tokens, tokens.token_ids(prompt), concept)
        inside += _inside(tokens, positions)
        beyond |= bool(positions)
    if not inside:
        raise _not_there(model, prompt, concept.phrase, beyond)
    return inside


def named_positions(model: Backbone, prompt: str, concepts: Sequence[Concept]) -> list[list[int]]:
    """Positions of each of several concepts, as :func:`concept_positions`; empty if not named.

    Concepts that share a placeholder are told apart by the class name after it, and one without a
    placeholder does not claim the class name of another.

    Raises:
        UserError: the prompt names none of them within the text encoder's length.
    """
    inside: list[list[int]] = [[] for _ in concepts]
    beyond = False
    for tokens in model.sequences:
        for places, positions in zip(inside, _shared(tokens, prompt, concepts), strict=True):
            places += _inside(tokens, positions)
            beyond |= bool(positions)
    if not any(inside):
        phrases = "' or '".join(concept.phrase for concept in concepts)
        raise _not_there(model, prompt, phrases, beyond)
    return inside


def _shared(tokens: TokenSequence, prompt: str, concepts: Sequence[Concept]) -> list[list[int]]:
    """Places of each concept among a prompt's tokens, none of them claimed twice."""
    ids, words = tokens.token_ids(prompt), [concept.placeholder for concept in concepts]
    found: dict[int, list[int]] = {}
    for k in sorted(range(len(concepts)), key=lambda k: not words[k]):
        concept = concepts[k]
        shared = bool(concept.placeholder) and words.count(concept.placeholder) > 1
        positions = _occurrences(tokens, ids, concept, whole=shared)
        taken = {place for each in found.values() for place in each}
        found[k] = [place for place in positions if place not in taken]
    return [found[k] for k in range(len(concepts))]


def fill_several(prompt: str, concepts: Sequence[Concept]) -> str:
    """Put several concepts into a prompt.

    ``{name}``, ``{0}``, ``{1}``, ..., ``{placeholder}`` and, where only one has it, ``{class}``
    become "placeholder class" of the concept they name; ``{}`` is the first one.

    Raises:
        UserError: braces name none of them, or the prompt mentions none.
    """
    known: dict[str, Concept] = {}
    nouns = [concept.class_name for concept in concepts]
    for concept in reversed(concepts):
        if nouns.count(concept.class_name) == 1:
            known[concept.class_name] = concept
    for number, concept in enumerate(concepts):
        known |= {str(number): concept, concept.name: concept}
        if concept.placeholder and [c.placeholder for c in concepts].count(concept.placeholder) < 2:
            known[concept.placeholder] = concept

    def put(match: re.Match[str]) -> str:
        key = match[1].strip()
        if key and key not in known:
            raise unknown_name(f"concept in the prompt '{prompt}',", key, known)
        return (known[key] if key else concepts[0]).phrase

    filled = re.sub(r"\{([^{}]*)\}", put, prompt)
    keys = [concept.placeholder or concept.class_name for concept in concepts]
    if not any(re.search(rf"(?<!\w){re.escape(key)}(?!\w)", filled) for key in keys):
        slots = " or ".join(f"'{{{concept.name}}}'" for concept in concepts)
        raise UserError(
            f"The prompt '{prompt}' mentions none of the concepts. Write {slots} where they belong."
        )
    return filled


def _occurrences(
    tokens: TokenSequence, ids: list[int], concept: Concept, whole: bool = False
) -> list[int]:
    """Places of a concept among token ids, the start token not counted.

    Args:
        tokens: the tokenizer's.
        ids: token ids without special tokens.
        concept: the concept.
        whole: count the placeholder only where the class name follows it.
    """
    placeholder = tokens.token_ids(concept.placeholder) if concept.placeholder else []
    noun = tokens.token_ids(concept.class_name)
    positions: list[int] = []
    start = 0
    sought = placeholder or noun
    while start <= len(ids) - len(sought):
        end = start + len(sought)
        follows = bool(placeholder) and ids[end : end + len(noun)] == noun
        if ids[start:end] != sought or (whole and not follows):
            start += 1
            continue
        if follows:
            end += len(noun)
        positions.extend(range(start, end))
        start = end
    return positions


def _inside(tokens: TokenSequence, positions: list[int]) -> list[int]:
    """Places the text encoder reads, counted with what stands before the prompt."""
    return [position + tokens.start for position in positions if position < tokens.room]


def _not_there(model: Backbone, prompt: str, phrase: str, beyond: bool) -> UserError:
    where = "stands beyond the text encoder's length in" if beyond else "is not in"
    return UserError(
        f"The concept '{phrase}' {where} the prompt '{prompt}'; write it with "
        f"'{SLOT}', within the first {max(each.room for each in model.sequences)} tokens."
    )


def cut_off(tokenizer: Any, text: str, length: int | None = None) -> str:
    """The end of a text that a text encoder does not read, as its length is fixed; often empty.

    Args:
        tokenizer: of a CLIP text encoder.
        text: with multi-vector placeholders expanded.
        length: of the text encoder, special tokens counted; None: what the tokenizer says.
    """
    limit = int(tokenizer.model_max_length if length is None else length) - 2
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return str(tokenizer.decode(ids[limit:])).strip() if len(ids) > limit else ""


def warn_cut(pipe: Any, prompts: Sequence[str]) -> None:
    """Say which words of prompts lie beyond what the text encoders read."""
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    for prompt in dict.fromkeys(prompts):
        for tokenizer in tokenizers:
            if tokenizer is None or not hasattr(tokenizer, "model_max_length"):
                continue
            text = prompt
            if hasattr(pipe, "maybe_convert_prompt"):
                text = pipe.maybe_convert_prompt(text, tokenizer)
            end = cut_off(tokenizer, text)
            if end:
                logger.warning(
                    "The prompt '%s' is longer than the %d tokens this model reads; cut off: '%s'.",
                    prompt if len(prompt) <= 60 else f"{prompt[:60]}...",
                    tokenizer.model_max_length - 2,
                    end,
                )
                break


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


def check_distinguishable(concepts: Sequence[Concept]) -> None:
    """Refuse concepts that a prompt could not tell apart.

    Raises:
        UserError: two have one name, or are written alike.
    """
    for what, values in (
        ("name", [concept.name for concept in concepts]),
        ("phrase", [concept.phrase for concept in concepts]),
    ):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(
                f"Two concepts have the {what} '{twice}'; give each its own, e.g. "
                "concepts: [{name: mug, ...}, {name: duck, ...}] with different placeholders."
            )


def check_prompts(pipe: Any, tokenizer: Any, prompts: Sequence[str]) -> None:
    """Refuse prompts with unknown words, see :func:`check_words`; say what is cut off of others."""
    for prompt in prompts:
        check_words(tokenizer, prompt)
    warn_cut(pipe, prompts)
