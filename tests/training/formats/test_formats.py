"""Weights as other programs write them load here, and draw what a stock pipeline draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny import tiny_sd
from tiny_personal import draw, fingerprint, make_concept

from framework.composer import compose
from framework.concepts.folders import load_concept
from framework.config.page import load_config
from framework.errors import UserError
from framework.interfaces import PERSONALIZERS
from framework.training.formats.recognise import recognise
from framework.training.personalize import personalizer_for

PROMPT = "a photo of a <my-duck> duck"
PLAIN = "a photo of a duck"


@pytest.fixture
def other():
    """A stock pipeline with the same weights, for diffusers' own loaders to change."""
    pipe = tiny_sd(sample_size=16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_here(pipe, path, prompt, placeholder="<my-duck>"):
    """The picture with the weights, found out from the file; undoing is exact."""
    before, concept = fingerprint(pipe), make_concept(placeholder=placeholder)
    personalizer = PERSONALIZERS.get(recognise(Path(path)).kind)()
    undo = personalizer.load(pipe, Path(path), concept)
    picture = draw(pipe, prompt)
    undo()
    assert fingerprint(pipe) == before
    return picture


def same(first, second, tolerance=1e-4):
    return np.abs(first - second).max() < tolerance


def noise(*shape, scale=0.3, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- Textual Inversion


@pytest.mark.parametrize("form", ["safetensors", "bin", "flat", "a1111"])
def test_embeddings(sd1, other, tmp_path, form):
    rows = noise(1 if form == "flat" else 2, 32)
    file = tmp_path / "learned_embeds.bin"
    if form == "safetensors":
        file = tmp_path / "learned_embeds.safetensors"
        save_file({"<theirs>": rows}, file)
    elif form == "a1111":
        file = tmp_path / "theirs.pt"
        torch.save({"string_to_param": {"*": rows}, "name": "theirs", "step": 3}, file)
    else:
        torch.save({"<theirs>": rows[0] if form == "flat" else rows}, file)
    other.load_textual_inversion(str(file), token="<my-duck>")
    theirs = draw(other, PROMPT)
    assert np.array_equal(drawn_here(sd1, file, PROMPT), theirs)
    assert np.array_equal(drawn_here(sd1, tmp_path, PROMPT), theirs)
    found = recognise(tmp_path)
    assert found.word == (None if form == "a1111" else "<theirs>")
    assert "width 32" in found.text


def test_embeddings_of_two_encoders(sdxl, tmp_path):
    rows = {"clip_l": noise(2, 32), "clip_g": noise(2, 32, seed=1)}
    save_file(rows, tmp_path / "learned_embeds.safetensors")
    before, tokens = draw(sdxl, PLAIN), make_concept()
    undo = PERSONALIZERS.get("textual_inversion")().load(sdxl, tmp_path, tokens)
    for tokenizer, encoder, key in (
        (sdxl.tokenizer, sdxl.text_encoder, "clip_l"),
        (sdxl.tokenizer_2, sdxl.text_encoder_2, "clip_g"),
    ):
        ids = tokenizer.convert_tokens_to_ids(["<my-duck>", "<my-duck>_1"])
        assert torch.equal(encoder.get_input_embeddings().weight[ids], rows[key])
    undo()
    assert np.array_equal(draw(sdxl, PLAIN), before)


# ---------------------------------------------------------------- LoRA


def lora_layers(unet, names=("to_q", "to_out.0"), rank=3):
    """Random updates of some layers by their paths: (down, up) each."""
    found = {}
    for place, (path, layer) in enumerate(unet.named_modules()):
        if path.endswith(tuple(f"attn1.{name}" for name in names)):
            down = noise(rank, layer.in_features, seed=2 * place)
            found[path] = down, noise(layer.out_features, rank, seed=2 * place + 1)
    return found


def test_lora_by_diffusers_own_writer(sd1, other, tmp_path):
    other.unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=["to_k", "to_out.0"]))
    with torch.no_grad():
        for place, (name, value) in enumerate(other.unet.named_parameters()):
            if "lora_B" in name:
                value.copy_(noise(*value.shape, seed=place))
    theirs = draw(other, PLAIN)
    state = get_peft_model_state_dict(other.unet)
    type(other).save_lora_weights(str(tmp_path), unet_lora_layers=state)
    assert same(drawn_here(sd1, tmp_path, PLAIN), theirs)
    assert not same(draw(sd1, PLAIN), theirs, 1e-2)
    apart = PERSONALIZERS.get("dreambooth_lora")(merge=False, scale=0.0)
    undo = apart.load(sd1, tmp_path, make_concept())
    assert same(draw(sd1, PLAIN), draw(tiny_quiet(), PLAIN))
    undo()


def tiny_quiet():
    pipe = tiny_sd(sample_size=16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("form", ["kohya", "older"])
def test_lora_in_older_forms(sd1, other, tmp_path, form):
    state = {}
    for path, (down, up) in lora_layers(sd1.unet).items():
        if form == "kohya":
            key = "lora_unet_" + path.replace(".", "_")
            state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            state[f"{key}.alpha"] = torch.tensor(1.5)
        else:
            layer, _, name = path.rpartition(".to_")
            key = f"unet.{layer}.processor.to_{name.removesuffix('.0')}_lora"
            state |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    file = tmp_path / ("theirs.safetensors" if form == "kohya" else "pytorch_lora_weights.bin")
    save_file(state, file) if form == "kohya" else torch.save(state, file)
    other.load_lora_weights(str(tmp_path), weight_name=file.name)
    theirs = draw(other, PLAIN)
    assert same(drawn_here(sd1, tmp_path, PLAIN), theirs)
    assert not same(draw(sd1, PLAIN), theirs, 1e-2)
    assert ("kohya" in recognise(file).text) == (form == "kohya")


# ---------------------------------------------------------------- Custom Diffusion


def custom_processors(unet, queries):
    """Random Custom Diffusion processors, put in as diffusers' training script does."""
    processors = {}
    for place, (name, layer) in enumerate(
        (name, layer) for name, layer in unet.named_modules() if hasattr(layer, "set_processor")
    ):
        cross = name.endswith("attn2")
        processor = CustomDiffusionAttnProcessor(
            train_kv=cross,
            train_q_out=cross and queries,
            hidden_size=layer.to_q.in_features if cross else None,
            cross_attention_dim=layer.to_k.in_features if cross else None,
        )
        with torch.no_grad():
            for index, value in enumerate(processor.parameters()):
                value.copy_(noise(*value.shape, scale=0.1, seed=31 * place + index))
        processors[f"{name}.processor"] = processor
    unet.set_attn_processor(dict(processors))


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_custom_diffusion_by_diffusers_own_writer(sd1, other, tmp_path, queries, safe):
    custom_processors(other.unet, queries)
    other.unet.save_attn_procs(str(tmp_path), safe_serialization=safe)
    row = noise(32)
    torch.save({"<new1>": row}, tmp_path / "<new1>.bin")
    other.load_textual_inversion(str(tmp_path), weight_name="<new1>.bin", token="<my-duck>")
    theirs = draw(other, PROMPT)
    assert same(drawn_here(sd1, tmp_path, PROMPT), theirs)
    assert recognise(tmp_path).word == "<new1>"


@pytest.mark.parametrize("compressed", [False, True])
def test_custom_diffusion_s_delta(sd1, other, tmp_path, compressed):
    layers, state = {}, other.unet.state_dict()
    for place, name in enumerate(n for n in state if "attn2.to_k" in n or "attn2.to_v" in n):
        old = state[name]
        u, v = noise(len(old), 2, seed=place), noise(2, old.shape[1], seed=place + 500)
        state[name] = old + u @ v
        layers[name] = {"u": u, "v": v} if compressed else state[name].clone()
    row = noise(32)
    torch.save({"unet": layers, "modifier_token": {"<new1>": row}}, tmp_path / "delta.bin")
    other.unet.load_state_dict(state)
    save_file({"<new1>": row[None]}, tmp_path / "row.safetensors")
    other.load_textual_inversion(str(tmp_path / "row.safetensors"), token="<my-duck>")
    theirs = draw(other, PROMPT)
    assert same(drawn_here(sd1, tmp_path / "delta.bin", PROMPT), theirs)
    assert not same(drawn_here(sd1, tmp_path / "row.safetensors", PROMPT), theirs, 1e-2)
    assert ("compressed" in recognise(tmp_path / "delta.bin").text) == compressed


def test_a_delta_of_several_words_keeps_their_names(sd1, tmp_path):
    name = next(n for n in sd1.unet.state_dict() if "attn2.to_k" in n)
    words = {"<new1>": noise(32), "<new2>": noise(32, seed=1)}
    weight = sd1.unet.get_parameter(name).detach().clone()
    torch.save({"unet": {name: weight}, "modifier_token": words}, tmp_path / "delta.bin")
    method, before = PERSONALIZERS.get("custom_diffusion")(), fingerprint(sd1)
    with pytest.raises(UserError, match="<new1>, <new2>"):
        method.load(sd1, tmp_path, make_concept())
    assert fingerprint(sd1) == before
    undo = method.load(sd1, tmp_path, make_concept(placeholder="<new2>"))
    assert {"<new1>", "<new2>"} <= set(sd1.tokenizer.get_vocab())
    undo()
    assert fingerprint(sd1) == before


# ---------------------------------------------------------------- DreamBooth


def test_a_fine_tuned_pipeline_its_unet_folder_and_its_unet_file(sd1, other, tmp_path):
    with torch.no_grad():
        for place, value in enumerate(other.unet.parameters()):
            value.add_(noise(*value.shape, scale=0.02, seed=place))
    other.save_pretrained(tmp_path / "whole")
    other.unet.save_pretrained(tmp_path / "checkpoint-500" / "unet")
    theirs = draw(other, PLAIN)
    unet = tmp_path / "checkpoint-500" / "unet"
    file = unet / "diffusion_pytorch_model.safetensors"
    for path in (tmp_path / "whole", unet.parent, unet, file):
        assert recognise(path).kind == "dreambooth"
        assert np.array_equal(drawn_here(sd1, path, PLAIN, "toy"), theirs)


# ---------------------------------------------------------------- one line of configuration


def test_weights_are_plugged_in_whatever_the_personalizer_says(sd1, other, tmp_path):
    save_file({"<theirs>": noise(2, 32)}, tmp_path / "learned_embeds.safetensors")
    photos = tmp_path / "photos"
    photos.mkdir()
    make_concept().images[0].save(photos / "0.png")
    words = [
        f"concept.path={photos}",
        "concept.class_name=duck",
        f"concept.weights={tmp_path}",
        "personalizer=dreambooth_lora",
        "mask.resolution=4",
        "injector.start_step=1",
    ]
    sampler = compose(None, pipe=other, overrides=words)
    assert sampler.concept.phrase == "<theirs> duck"
    assert "<theirs>" in other.tokenizer.get_vocab()
    config = load_config(None, [*words, "concept.placeholder='<mine>'"])
    assert load_concept(config).phrase == "<mine> duck"
    assert personalizer_for(tmp_path, config).name == "textual_inversion"


def test_weights_that_do_not_say_their_word(sd1, tmp_path, caplog):
    name = next(n for n, _ in sd1.unet.named_modules() if n.endswith("attn1.to_q"))
    width = sd1.unet.get_submodule(name).in_features
    state = {
        f"unet.{name}.lora_A.weight": noise(2, width),
        f"unet.{name}.lora_B.weight": noise(width, 2),
    }
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    make_concept().images[0].save(tmp_path / "0.png")
    photos = tmp_path / "photos"
    photos.mkdir()
    make_concept().images[0].save(photos / "0.png")
    words = [f"concept.path={photos}", "concept.class_name=duck", f"concept.weights={tmp_path}"]
    assert load_concept(load_config(None, words)).phrase == "toy duck"
    assert "'toy' is assumed" in caplog.text
    assert load_concept(load_config("models/sd1", [*words, "model.path=x"])).placeholder == "sks"


# ---------------------------------------------------------------- what is not understood


def test_what_is_refused(sd1, tmp_path):
    cases = {
        "empty.safetensors": (b"", "empty"),
        "noise.safetensors": (b"nonsense", "cannot be read"),
        "noise.bin": (b"nonsense", "cannot be read"),
        "photo.png": (b"\x89PNG....", "it is a picture"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            recognise(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        recognise(tmp_path)
    with pytest.raises(UserError, match="do not exist"):
        recognise(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no weights that are known"):
        recognise(tmp_path / "bare")
    tensors = {
        "whole": ({"model.diffusion_model.x": noise(2, 2)}, "whole checkpoint in one file"),
        "lycoris": ({"lora_unet_x.oft_blocks": noise(2, 2)}, "OFT"),
        "stranger": ({f"layer.{k}": noise(2, 2, 2, 2) for k in range(3)}, "nothing that is known"),
    }
    for name, (content, message) in tensors.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            recognise(tmp_path / f"{name}.safetensors")
    torch.save(make_concept(), tmp_path / "objects.bin")
    with pytest.raises(UserError, match="Python objects"):
        recognise(tmp_path / "objects.bin")


def test_another_width_is_refused_with_both_shapes(sd1, tmp_path):
    before, concept = fingerprint(sd1), make_concept()
    name = next(n for n, _ in sd1.unet.named_modules() if n.endswith("attn2.to_k"))
    good = tuple(sd1.unet.get_submodule(name).weight.shape)
    wide = noise(good[0], 48)
    torch.save({"unet": {f"{name}.weight": wide}, "modifier_token": {}}, tmp_path / "delta.bin")
    lora = {
        f"unet.{name}.lora_A.weight": noise(2, 48),
        f"unet.{name}.lora_B.weight": noise(good[0], 2),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    for kind, file, shapes in (
        ("custom_diffusion", "delta.bin", (str(tuple(wide.shape)), str(good))),
        ("dreambooth_lora", "lora.safetensors", ("(2, 48)", str(good))),
    ):
        with pytest.raises(UserError) as caught:
            PERSONALIZERS.get(kind)().load(sd1, tmp_path / file, concept)
        for shape in shapes:
            assert shape in str(caught.value)
    with pytest.raises(UserError, match="personalizer=custom_diffusion"):
        PERSONALIZERS.get("textual_inversion")().load(sd1, tmp_path / "delta.bin", concept)
    assert fingerprint(sd1) == before
