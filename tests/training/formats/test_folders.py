"""A folder of weights is one thing, and a file is what it holds, however it is called."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from safetensors.torch import save, save_file
from tiny_formats import gap, kohya, load, noise, off_by, seen, stock, weight
from tiny_personal import fingerprint, make_concept

from framework.concepts.folders import load_concept
from framework.config.page import load_config
from framework.config.resources import file_stem
from framework.errors import UserError
from framework.training.formats.reading import form_of, read_weights
from framework.training.formats.recognise import recognise


def update(**options):
    return kohya(stock().unet, "lora_unet_", ("attn1.to_q",), **options)


def rows_of(pipe, word, encoder="text_encoder", tokenizer="tokenizer"):
    vocabulary = getattr(pipe, tokenizer).get_vocab()
    table = getattr(pipe, encoder).get_input_embeddings().weight
    names = [word, *(f"{word}_{k}" for k in range(1, 9))]
    return table[[vocabulary[name] for name in names if name in vocabulary]].detach()


# ---------------------------------------------------------------- content, not name


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.ckpt", "x.safetensors", "x.weights", "x"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_kind_is_judged_by_content(tmp_path, name, pickled):
    state, changes = update()
    file = tmp_path / name
    torch.save(state, file) if pickled else file.write_bytes(save(state))
    assert form_of(file) == ("pickle" if pickled else "safetensors")
    pipe = stock()
    load(pipe, file)
    assert off_by(pipe, changes) < 1e-6


def test_custom_diffusion_s_word_as_safetensors_under_bin(tmp_path):
    plain = stock().unet.state_dict()
    state = {
        key.replace(".to_k.", ".processor.to_k_custom_diffusion."): value + 0.1
        for key, value in plain.items()
        if "attn2.to_k" in key
    }
    save_file(state, tmp_path / "pytorch_custom_diffusion_weights.safetensors")
    row = noise(32)
    save_file({"<new1>": row}, tmp_path / "<new1>.bin", {"format": "pt"})
    assert recognise(tmp_path).word == "<new1>"
    pipe = stock()
    load(pipe, tmp_path, "<mine>")
    assert gap(rows_of(pipe, "<mine>"), row[None]) == 0
    path = next(n for n in plain if "attn2.to_k" in n).removesuffix(".weight")
    assert gap(weight(pipe, path), plain[f"{path}.weight"] + 0.1) < 1e-6
    alone = stock()
    load(alone, tmp_path / "<new1>.bin", "<mine>")
    assert gap(rows_of(alone, "<mine>"), row[None]) == 0


STRANGERS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "page": (b"<!DOCTYPE html><html>", "a web page"),
    "picture": (b"\x89PNG\r\n\x1a\n123", "a picture"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "GGUF"),
    "keras": (b"\x89HDF\r\n\x1a\n", "Keras"),
    "archive": (b"\x1f\x8b\x08\x00", "unpack"),
    "noise": (b"nonsense and more", "first bytes"),
    "empty": (b"", "0 bytes"),
    "cut": (save({"a": torch.ones(64)})[:100], "cannot be read"),
    "numpy": (b"PK\x03\x04 an npz", "cannot be read"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_weights_is_refused_with_what_it_is(tmp_path, name):
    content, message = STRANGERS[name]
    for suffix in (".safetensors", ".bin"):
        file = tmp_path / f"{name}{suffix}"
        file.write_bytes(content)
        with pytest.raises(UserError, match=message):
            recognise(file)


def test_what_is_no_plain_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    cases = {
        tmp_path / "pipe.safetensors": "a pipe, socket or device",
        "/proc/self/mem": "is empty",
        "/dev/zero": "a pipe, socket or device",
        tmp_path / ("x" * 300): "do not exist",
        tmp_path / "\0": "do not exist",
        tmp_path / "gone": "do not exist",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            load(stock(), path)
    with pytest.raises(UserError, match="a pipe, socket or device"):
        load(stock(), tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        read_weights(tmp_path)


# ---------------------------------------------------------------- companions


def test_pivotal_tuning_loads_updates_and_words(tmp_path):
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    width = stock(xl=True).unet.get_submodule(path).in_features
    down, up = noise(2, width), noise(width, 2, seed=1)
    state = {f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    rows = {"clip_l": noise(2, 32), "clip_g": noise(2, 32, seed=1)}
    save_file(rows, tmp_path / "learned_embeds.safetensors")
    found = recognise(tmp_path)
    assert "LoRA" in found.text
    assert "Textual Inversion" in found.text
    pipe = stock(xl=True)
    undo = load(pipe, tmp_path, "<s0>")
    assert gap(weight(pipe, path), weight(stock(xl=True), path) + up @ down) < 1e-6
    assert gap(rows_of(pipe, "<s0>"), rows["clip_l"]) == 0
    assert gap(rows_of(pipe, "<s0>", "text_encoder_2", "tokenizer_2"), rows["clip_g"]) == 0
    undo()
    assert "<s0>" not in pipe.tokenizer.get_vocab()
    assert gap(weight(pipe, path), weight(stock(xl=True), path)) == 0


@pytest.mark.parametrize("form", ["one word", "two words", "bundled"])
def test_words_beside_or_inside_updates(tmp_path, form):
    state, changes = update()
    words = {"<new1>": noise(2, 32)}
    if form == "two words":
        words["<new2>"] = noise(1, 32, seed=1)
    if form == "bundled":
        state["bundle_emb.theirs.string_to_param.*"] = words["<new1>"]
    else:
        save_file(words, tmp_path / "theirs_emb.safetensors")
    save_file(state, tmp_path / "theirs.safetensors")
    pipe = stock()
    before = fingerprint(pipe)
    undo = load(pipe, tmp_path, "<new1>")
    for word in words:
        assert gap(rows_of(pipe, word), words[word]) == 0
    inside = {f"{path}": change for path, change in changes.items()}
    assert off_by(pipe, inside) < 1e-6
    undo()
    assert fingerprint(pipe) == before
    if form == "two words":
        with pytest.raises(UserError, match="<new1>, <new2>"):
            load(pipe, tmp_path, "<other>")
        assert fingerprint(pipe) == before


def test_a_whole_model_with_updates_and_a_word_beside_it(tmp_path):
    changed = stock()
    with torch.no_grad():
        changed.unet.conv_in.weight.add_(0.1)
    changed.save_pretrained(tmp_path)
    state, changes = update()
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    save_file({"<w>": noise(32)}, tmp_path / "learned_embeds.safetensors")
    pipe = stock()
    undo = load(pipe, tmp_path, "<w>")
    assert gap(weight(pipe, "conv_in"), weight(changed, "conv_in")) == 0
    for path, change in changes.items():
        assert gap(weight(pipe, path), weight(stock(), path) + change) < 1e-6
    assert "<w>" in pipe.tokenizer.get_vocab()
    undo()
    assert gap(weight(pipe, "conv_in"), weight(stock(), "conv_in")) == 0


def test_a_training_s_state_is_passed_over_and_said(tmp_path, caplog):
    state, _ = update()
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        torch.save({"step": 3}, tmp_path / name)
    torch.save({"loss": [1.0]}, tmp_path / "history.pt")
    (tmp_path / "._pytorch_lora_weights.safetensors").write_bytes(b"\x00\x05\x16\x07")
    with caplog.at_level(logging.INFO, "framework"):
        load(stock(), tmp_path)
    assert "Passed over beside the weights: history.pt, optimizer.bin" in caplog.text


def test_earlier_states_of_a_training_are_passed_over(tmp_path):
    for name in ("learned_embeds", "learned_embeds-steps-500", "learned_embeds-steps-1000"):
        save_file({"<w>": noise(1, 32, seed=len(name))}, tmp_path / f"{name}.safetensors")
    found = recognise(tmp_path)
    assert found.path.name == "learned_embeds.safetensors"
    assert len(found.skipped) == 2


def test_what_contradicts_itself_is_refused(tmp_path):
    state, _ = update()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.bin")
    assert recognise(tmp_path).path.name == "a.safetensors"  # the same twice
    torch.save({key: value + 1 for key, value in state.items()}, tmp_path / "a.bin")
    with pytest.raises(UserError, match="they differ"):
        recognise(tmp_path)
    (tmp_path / "a.bin").unlink()
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="give the file itself"):
        recognise(tmp_path)


def test_a_damaged_companion_is_refused_not_passed_over(tmp_path):
    state, _ = update()
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"learned_embeds.safetensors' is empty"):
        load(stock(), tmp_path)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("key", ["<theirs>", "clip_l", "clip_g"])
def test_a_word_for_one_of_two_text_encoders(tmp_path, caplog, key):
    row = noise(1, 32)
    save_file({key: row}, tmp_path / "learned_embeds.safetensors")
    pipe, theirs = stock(xl=True), stock(xl=True)
    second = key == "clip_g"
    theirs.load_textual_inversion(
        row,
        token="<w>",
        text_encoder=theirs.text_encoder_2 if second else theirs.text_encoder,
        tokenizer=theirs.tokenizer_2 if second else theirs.tokenizer,
    )
    undo = load(pipe, tmp_path, "<w>")
    assert gap(seen(pipe, "a <w> duck"), seen(theirs, "a <w> duck")) < 1e-6
    assert ("text_encoder reads" if second else "text_encoder_2 reads") in caplog.text
    undo()
    assert gap(seen(pipe), seen(stock(xl=True))) == 0


def test_two_files_of_one_word_are_for_two_text_encoders(tmp_path):
    first, second = noise(1, 32), noise(1, 32, seed=1)
    save_file({"<w>": first}, tmp_path / "learned_embeds.safetensors")
    save_file({"<w>": second}, tmp_path / "learned_embeds_2.safetensors")
    pipe = stock(xl=True)
    load(pipe, tmp_path, "<w>")
    assert gap(rows_of(pipe, "<w>"), first) == 0
    assert gap(rows_of(pipe, "<w>", "text_encoder_2", "tokenizer_2"), second) == 0


def test_rows_for_a_text_encoder_that_is_not_there_are_refused(tmp_path):
    save_file({"clip_l": noise(1, 32), "t5": noise(1, 64)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="'t5' beside clip_l"):
        load(stock(), tmp_path / "a.safetensors", "<w>")


# ---------------------------------------------------------------- Custom Diffusion


def delta(**more):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    return {"unet": {name: noise(64, 32)}, "modifier_token": {"<new1>": noise(32)}} | more


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_delta_with_a_text_encoder(tmp_path, prefix):
    changed = stock().text_encoder
    state = {key.removeprefix("text_model."): v + 0.1 for key, v in changed.state_dict().items()}
    table = next(key for key in state if key.endswith("token_embedding.weight"))
    state[table] = torch.cat([state[table], noise(1, 32)])  # the program's own new row
    text = {f"{prefix}{key}": value for key, value in state.items()}
    text[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(delta(text_encoder=text), tmp_path / "delta.bin")
    assert "with a text encoder" in recognise(tmp_path / "delta.bin").text
    pipe = stock()
    before = fingerprint(pipe)
    undo = load(pipe, tmp_path, "<w>")
    for key, value in pipe.text_encoder.state_dict().items():
        new = state[key.removeprefix("text_model.")]
        size = min(len(value), len(new)) - ("token_embedding" in key)
        assert gap(value[:size], new[:size]) < 1e-6
    assert gap(rows_of(pipe, "<w>"), delta()["modifier_token"]["<new1>"][None]) == 0
    undo()
    assert fingerprint(pipe) == before


def test_a_delta_with_more_than_is_known_is_refused(tmp_path):
    torch.save(delta(vae={"x": noise(2)}), tmp_path / "delta.bin")
    with pytest.raises(UserError, match="the entry 'vae'"):
        load(stock(), tmp_path, "<w>")
    torch.save(delta(text_encoder_2={"x": noise(2)}), tmp_path / "delta.bin")
    with pytest.raises(UserError, match="'text_encoder_2', which this model has not"):
        load(stock(), tmp_path, "<w>")


# ---------------------------------------------------------------- DreamBooth


@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_fine_tuned_folder_that_is_only_a_variant(tmp_path, variant):
    changed = stock()
    with torch.no_grad():
        changed.unet.conv_in.weight.add_(0.1)
    changed.save_pretrained(tmp_path, variant=variant)
    pipe = stock()
    load(pipe, tmp_path)
    assert gap(weight(pipe, "conv_in"), weight(changed, "conv_in")) == 0


def test_a_fine_tuned_text_encoder_alone(tmp_path):
    changed = stock()
    with torch.no_grad():
        for value in changed.text_encoder.parameters():
            value.add_(0.1)
    changed.text_encoder.save_pretrained(tmp_path / "text_encoder")
    pipe = stock()
    load(pipe, tmp_path)
    assert gap(seen(pipe), seen(changed)) == 0


@pytest.mark.parametrize("head", ["", "module.", "unet.", "_orig_mod."])
def test_a_unet_s_file_whatever_its_names_begin_with(tmp_path, head):
    state = {f"{head}{key}": value + 0.1 for key, value in stock().unet.state_dict().items()}
    torch.save({"state_dict": state, "step": 3}, tmp_path / "last.ckpt")
    pipe = stock()
    load(pipe, tmp_path / "last.ckpt")
    assert gap(weight(pipe, "conv_in"), weight(stock(), "conv_in") + 0.1) < 1e-6


# ---------------------------------------------------------------- texts of the user's


@pytest.mark.parametrize("word", ["../../x", "/etc/x", "a/b", "..", "x\0y", "w" * 400, ".hidden"])
def test_no_text_of_the_user_s_leaves_the_folder(tmp_path, word):
    stem = file_stem(word)
    assert (tmp_path / f"{stem}.bin").resolve().parent == tmp_path.resolve()
    assert len(stem) < 100
    assert not stem.startswith(".")
    assert file_stem(word) != file_stem(f"{word}/")
    assert file_stem("<my-duck>") == "<my-duck>"


def test_a_concept_of_pivotal_tuning_is_called_by_its_name(tmp_path):
    state, _ = update()
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    save_file({"clip_l": noise(1, 32)}, tmp_path / "learned_embeds.safetensors")
    photos = tmp_path / "my-duck"
    photos.mkdir()
    make_concept().images[0].save(photos / "0.png")
    words = [f"concept.path={photos}", "concept.class_name=duck", f"concept.weights={tmp_path}"]
    assert load_concept(load_config(None, words)).placeholder == "<my-duck>"
