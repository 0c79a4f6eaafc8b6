"""A word-level ``CLIPTokenizer`` over a closed vocabulary.

The class is the one Stable Diffusion uses, a byte-pair encoder, so its merges are learnt from the
list of words until every word is one token. An unknown word falls into pieces (or the unknown
token): a word is known exactly if it is encoded to one token other than ``unk_token``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_LENGTH = 32
BOS, EOS, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unk|>"


def build_tokenizer(words: Iterable[str], max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """Makes a tokenizer that encodes each of the words to one token.

    Args:
        words: The vocabulary; compounds ("t-shirt") count as the words they are split into. The
            comma is always part of it.
        max_length: Tokens of a prompt, with start and end.

    Returns:
        The tokenizer; ``<|endoftext|>`` also pads. its configuration lists
        the ``words``, so that others can be refused.

    Raises:
        ValueError: A word would not be one token.
    """
    known = sorted({part for word in words for part in split_words(word)} | {","})
    merges = _learn_merges(known)
    alphabet = sorted({symbol for word in known for symbol in _symbols(word)})
    pieces = alphabet + ["".join(pair) for pair in merges]
    vocabulary = {token: index for index, token in enumerate([BOS, EOS, UNKNOWN])}
    for piece in dict.fromkeys(pieces):
        vocabulary[piece] = len(vocabulary)
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        words=known,
    )
    broken = [word for word in known if not is_known(tokenizer, word)]
    if broken:
        raise ValueError(f"not one token each: {', '.join(broken)}")
    return tokenizer


def split_words(text: str) -> list[str]:
    """The words of a text as CLIP's pre-tokenizer sees them: letters, single digits, the rest."""
    splitter = CLIPTokenizer().backend_tokenizer
    text = splitter.normalizer.normalize_str(text)
    return [word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(text)]


def is_known(tokenizer: CLIPTokenizer, word: str) -> bool:
    """Whether the tokenizer has a word as a token of its own."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def _symbols(word: str) -> list[str]:
    """What byte-pair encoding starts from: the letters, the last one marked as such."""
    return [*word[:-1], word[-1] + "</w>"]


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges learnt until no word has two pieces left."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=1_000_000, min_frequency=0, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]
