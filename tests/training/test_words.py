from __future__ import annotations

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import CLIPTokenizer

from framework.errors import UserError
from framework.training.embeds import read_words, write_embeds
from framework.training.templates import OBJECT, expand_templates, usable_templates
from framework.training.words import TrainedWords, add_words, initial_rows, towers


def closed_tokenizer(*words):
    """Whole words only; everything else is the unknown token."""
    pieces = ["<|startoftext|>", "<|endoftext|>", "<unk>"]
    merges = []
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        pieces += [part for part in parts if part not in pieces]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = ["".join(parts[:2]), *parts[2:]]
            pieces += [parts[0]] if parts[0] not in pieces else []
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(
        vocab=vocab, merges=merges, unk_token="<unk>", model_max_length=32, words=list(words)
    )


def test_templates_keep_to_known_words():
    assert usable_templates(OBJECT, [tiny_tokenizer()]) == list(OBJECT)
    closed = closed_tokenizer("a", "photo", "of", "the", "my")
    assert usable_templates(OBJECT, [closed]) == [
        "a photo of a {}",
        "the photo of a {}",
        "a photo of my {}",
        "a photo of the {}",
    ]
    assert usable_templates(OBJECT, [tiny_tokenizer(), closed_tokenizer("dog")]) == ["{}"]


def test_templates_by_name_and_in_full():
    assert expand_templates(["object", "a {}", "a {}"]) == [*OBJECT, "a {}"]
    with pytest.raises(UserError, match="Did you mean 'style'"):
        expand_templates(["styles"])


def test_initial_rows_are_shared_out(sd1):
    (tower,) = towers(sd1)
    table = sd1.text_encoder.get_input_embeddings().weight.detach()
    ids = [sd1.tokenizer(w, add_special_tokens=False).input_ids[0] for w in ("red", "toy", "dog")]
    red, toy, dog = table[torch.tensor(ids)]
    assert torch.equal(initial_rows(sd1, tower, "red", 2), torch.stack([red, red]))
    assert torch.equal(initial_rows(sd1, tower, "red toy dog", 3), torch.stack([red, toy, dog]))
    assert torch.allclose(initial_rows(sd1, tower, "red toy dog", 1)[0], (red + toy + dog) / 3)
    three = initial_rows(sd1, tower, "red toy dog", 2)
    assert torch.allclose(three, torch.stack([(red + toy) / 2, dog]))


def test_gradients_reach_the_new_rows_only(sd1):
    base = sd1.text_encoder.get_input_embeddings()
    rows = torch.nn.Parameter(torch.ones(2, 32))
    words = TrainedWords(base, rows, first=len(base.weight))
    ids = torch.tensor([[0, len(base.weight) + 1, 5]])
    out = words(ids)
    assert torch.equal(out[0, 1], rows[1])
    assert torch.equal(out[0, ::2], base(torch.tensor([0, 5])))
    out.sum().backward()
    assert rows.grad.tolist() == [[0.0] * 32, [1.0] * 32]
    base.weight.grad = None
    assert dict(words.named_parameters()).keys() == {"base.weight"}


def test_rows_of_a_padded_table_are_not_lost(sd1):
    """A table longer than the vocabulary, as some checkpoints have, is used, not cut."""
    encoder = sd1.text_encoder
    old = encoder.get_input_embeddings()
    padded = torch.nn.Embedding(len(old.weight) + 8, 32)
    encoder.set_input_embeddings(padded)
    try:
        undo = add_words(sd1, "<x>", {"clip_l": torch.ones(2, 32)}, trained=False)
        first = len(old.weight)
        weight = encoder.get_input_embeddings().weight
        assert weight.shape == padded.weight.shape
        assert (weight[first : first + 2] == 1).all()
        assert torch.equal(weight[:first], padded.weight[:first])
        assert torch.equal(weight[first + 2 :], padded.weight[first + 2 :])
        undo()
        assert encoder.get_input_embeddings() is padded
    finally:
        encoder.set_input_embeddings(old)


@pytest.mark.parametrize("suffix", ["one.bin", "web.pt", "original.pt", "bare.pt"])
def test_other_programs_files_are_read(sd1, tmp_path, suffix):
    row = torch.arange(32.0)[None]
    content = {
        "one.bin": {"<cat-toy>": row[0]},
        "web.pt": {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": row},
            "name": "cat-toy",
            "step": 500,
        },
        "original.pt": {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(row)}),
        },
        "bare.pt": row,
    }[suffix]
    torch.save(content, tmp_path / suffix)
    assert torch.equal(read_words(sd1, [tmp_path / suffix], "<x>")["<x>"]["clip_l"], row)


def test_pickled_code_is_not_executed(sd1, tmp_path):
    class Evil:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'done')!r}, 'w')",))

    torch.save({"<x>": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(UserError, match="cannot be read"):
        read_words(sd1, [tmp_path / "evil.bin"], "<x>")
    assert not (tmp_path / "done").exists()


def test_rows_that_are_not_finite_are_refused(sd1, tmp_path):
    for rows in (torch.full((1, 32), float("nan")), torch.zeros(1, 2, 32)):
        write_embeds(tmp_path / "x.safetensors", "<x>", {"clip_l": rows})
        with pytest.raises(UserError, match="expected .vectors, width."):
            read_words(sd1, [tmp_path / "x.safetensors"], "<x>")
