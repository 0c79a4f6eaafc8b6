"""Where the concept's tokens are, counted by hand; words nobody knows."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_concept, tiny_sampler
from transformers import CLIPTokenizer

from framework.backbones.choose import backbone_of
from framework.concepts.text import (
    check_words,
    concept_positions,
    cut_off,
    fill_prompt,
    unknown_words,
    warn_cut,
)
from framework.errors import UserError

TOY = tiny_concept()  # placeholder "toy", class "dog": one token each


@pytest.fixture
def pipe(sd1):
    """A pipeline whose tokenizer and text encoder a test may change."""
    changed = copy.copy(sd1)
    changed.tokenizer = copy.deepcopy(sd1.tokenizer)
    changed.text_encoder = copy.deepcopy(sd1.text_encoder)
    return changed


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of a {}", "a photo of a toy dog"),
        ("{}", "toy dog"),
        ("{} and {}", "toy dog and toy dog"),
        ("the toy on snow", "the toy on snow"),
        ("toy, dog", "toy, dog"),
    ],
)
def test_fill(prompt, expected):
    assert fill_prompt(prompt, TOY) == expected


@pytest.mark.parametrize("prompt", ["a photo", "toys", "a dog", "", "{"])
def test_prompts_without_the_concept_are_refused(prompt):
    with pytest.raises(UserError, match=r"does not mention the concept. Write '\{\}' or 'toy'"):
        fill_prompt(prompt, TOY)


def test_fill_with_a_placeholder_in_brackets():
    concept = tiny_concept(placeholder="<my-dog>")
    assert fill_prompt("a <my-dog>, red", concept) == "a <my-dog>, red"
    assert fill_prompt("a {}", concept) == "a <my-dog> dog"


@pytest.mark.parametrize(
    ("prompt", "positions"),
    [
        ("a photo of a toy dog", [5, 6]),  # start, a, photo, of, a, toy, dog
        ("toy dog on grass", [1, 2]),  # at the start
        ("toy dog", [1, 2]),  # all of it
        ("a toy dog in the toy dog", [2, 3, 6, 7]),  # twice
        ("a toy on a dog", [2]),  # the class elsewhere does not count
        ("a dog toy", [3]),
        ("toy toy dog", [1, 2, 3]),
    ],
)
def test_positions(sd1, prompt, positions):
    assert concept_positions(backbone_of(sd1), prompt, TOY) == positions


def test_positions_of_several_sub_words(sd1):
    """'zxq' has three tokens here, 'hat' one; 'fox' three."""
    concept = tiny_concept(placeholder="zxq", class_name="red fox")
    assert len(sd1.tokenizer("zxq", add_special_tokens=False).input_ids) == 3
    assert concept_positions(backbone_of(sd1), "a zxq red fox in the snow", concept) == [
        2,
        3,
        4,
        5,
        6,
        7,
        8,
    ]
    assert concept_positions(backbone_of(sd1), "the zxq", concept) == [2, 3, 4]


def test_positions_without_placeholder(sd1):
    concept = tiny_concept(placeholder="")
    assert fill_prompt("a photo of a {}", concept) == "a photo of a dog"
    assert concept_positions(backbone_of(sd1), "a dog on a dog", concept) == [2, 5]


def test_positions_of_a_multi_vector_placeholder(pipe):
    """diffusers writes <toy> as <toy> <toy>_1 <toy>_2 before it tokenizes."""
    vectors = torch.randn(3, 32)
    pipe.load_textual_inversion(
        {"<toy>": vectors}, token="<toy>", tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder
    )
    concept = tiny_concept(placeholder="<toy>")
    positions = concept_positions(backbone_of(pipe), "a red <toy> dog on snow", concept)
    assert positions == [3, 4, 5, 6]
    text = pipe.maybe_convert_prompt("a red <toy> dog on snow", pipe.tokenizer)
    ids = pipe.tokenizer(text).input_ids
    assert pipe.tokenizer.convert_ids_to_tokens([ids[position] for position in positions]) == [
        "<toy>", "<toy>_1", "<toy>_2", "dog</w>"
    ]  # fmt: skip
    embeddings = pipe.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(embeddings[[ids[p] for p in positions[:3]]], vectors)
    trace = tiny_sampler(pipe, concept)("a red {}", num_inference_steps=2, return_trace=True).trace
    assert trace[1].masks.target.max() == 1


def test_a_concept_that_is_cut_off(sd1):
    """75 tokens fit between start and end; what is beyond the encoder never sees."""
    assert concept_positions(backbone_of(sd1), "a " * 73 + "toy dog", TOY) == [74, 75]
    assert concept_positions(backbone_of(sd1), "a " * 74 + "toy dog", TOY) == [75]
    with pytest.raises(UserError, match="stands beyond the text encoder's length .* 75 tokens"):
        concept_positions(backbone_of(sd1), "a " * 75 + "toy dog", TOY)
    with pytest.raises(UserError, match="'toy dog' is not in the prompt 'a cat'"):
        concept_positions(backbone_of(sd1), "a cat", TOY)


def with_unknown() -> CLIPTokenizer:
    """A tokenizer of a few letters with an unknown token of its own."""
    vocab = {token: index for index, token in enumerate(["a</w>", "c", "t", "a", "t</w>", "<unk>"])}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[], unk_token="<unk>", model_max_length=77)


def test_unknown_words_are_named(pipe):
    tokenizer = with_unknown()
    assert unknown_words(tokenizer, "a cat") == []
    assert unknown_words(tokenizer, "a dog cat act") == ["dog"]
    with pytest.raises(UserError, match="words this model's tokenizer does not know: 'dog'"):
        check_words(tokenizer, "a dog")


def test_a_sampler_refuses_unknown_words(pipe):
    pipe.tokenizer = with_unknown()
    concept = tiny_concept(placeholder="", class_name="cat")
    with pytest.raises(UserError, match="The prompt 'a photo of a cat' has words .*'photo'"):
        tiny_sampler(pipe, concept)
    sampler = tiny_sampler(pipe, concept, {"reference_prompt": "a {}"})
    with pytest.raises(UserError, match="The prompt 'a jungle cat' has words .*'jungle'"):
        sampler("a jungle {}")


def test_a_tokenizer_of_bytes_knows_every_word(sd1):
    check_words(sd1.tokenizer, "a zzyzx in 1984, said the dog!")


# ---------------------------------------------------------------- texts that are too long


def long_prompt(words):
    return " ".join(["a", "photo", "of", "a", *["duck"] * words])


@pytest.mark.parametrize("over", [0, 1, 40])
def test_what_is_cut_off_is_said_word_by_word(sd1, caplog, over):
    prompt = long_prompt(71 + over)
    assert cut_off(sd1.tokenizer, prompt) == " ".join(["duck"] * over)
    warn_cut(sd1, [prompt, prompt])
    told = [r.getMessage() for r in caplog.records if r.name.startswith("framework")]
    assert len(told) == (over > 0)
    if over:
        assert told[0].endswith(f"cut off: '{' '.join(['duck'] * over)}'.")


def test_a_long_prompt_is_said_when_it_is_drawn(sd1, caplog):
    sampler = tiny_sampler(sd1, options={"num_inference_steps": 1}, injector="none")
    sampler("a photo of a {} " + "on the grass " * 30, output_type="latent")
    assert "cut off: '" in caplog.text
    assert "on the grass'." in caplog.text


def test_both_text_encoders_of_sdxl_are_asked(sdxl, caplog):
    warn_cut(sdxl, [long_prompt(80)])
    assert caplog.text.count("cut off") == 1
