"""LoRA and its relatives as many programs write them: exactly what the file says, or refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_formats import (
    ATTENTION,
    TEXT,
    gap,
    kohya,
    layers,
    load,
    noise,
    off_by,
    pairs,
    seen,
    stock,
    weight,
)
from tiny_personal import draw, fingerprint

from framework.errors import UserError
from framework.training.formats.lora import read_updates
from framework.training.formats.recognise import recognise

TIGHT = 1e-6


def loaded(file, xl=False, **options):
    pipe = stock(xl)
    before = fingerprint(pipe) if not xl else None
    undo = load(pipe, file, **options)
    return pipe, undo, before


def exact(file, changes, part="unet", xl=False):
    """The file changes these weights by these amounts and no others; undoing is exact."""
    pipe, undo, before = loaded(file, xl)
    assert off_by(pipe, changes, part, xl) < TIGHT
    assert any(float(change.abs().max()) > 1e-2 for change in changes.values())
    undo()
    assert before is None or fingerprint(pipe) == before


# ---------------------------------------------------------------- names


def renamed(form, xl=False):
    """The same updates of the U-Net under the names of one program: (state, {path: change})."""
    state, changes = {}, {}
    for path, (down, up) in pairs(stock(xl).unet).items():
        layer, _, name = path.rpartition(".to_")
        ends = "lora_A.weight", "lora_B.weight"
        key = {
            "diffusers": f"unet.{path}.",
            "no component": f"{path}.",
            "comfy": f"diffusion_model.{path}.",
            "wrapped": f"base_model.model.unet.{path}.",
            "lycoris": f"lycoris_{path.replace('.', '_')}.",
        }.get(form)
        if form in ("unet.PATH.lora_down", "lycoris"):
            key, ends = key or f"unet.{path}.", ("lora_down.weight", "lora_up.weight")
        elif form == "processor":
            key, ends = f"unet.{layer}.processor.to_{name}_lora.", ("down.weight", "up.weight")
        elif form == "attn processor alone":
            key, ends = f"{layer}.processor.to_{name}_lora.", ("down.weight", "up.weight")
        elif form == "adapter name":
            key, ends = f"unet.{path}.", ("lora_A.default.weight", "lora_B.default.weight")
        elif form == "linear layer":
            key, ends = f"unet.{path}.lora_linear_layer.", ("down.weight", "up.weight")
        state |= {f"{key}{ends[0]}": down, f"{key}{ends[1]}": up}
        changes[path] = up @ down
    return state, changes


FORMS = (
    "diffusers",
    "no component",
    "comfy",
    "wrapped",
    "lycoris",
    "unet.PATH.lora_down",
    "processor",
    "attn processor alone",
    "adapter name",
    "linear layer",
)


@pytest.mark.parametrize("form", FORMS)
def test_names_of_many_programs(tmp_path, form):
    state, changes = renamed(form)
    save_file(state, tmp_path / "theirs.safetensors")
    exact(tmp_path / "theirs.safetensors", changes)


@pytest.mark.parametrize("form", ["diffusers", "processor", "kohya"])
def test_they_are_stock_s_own_weights(tmp_path, form):
    file, theirs = tmp_path / "theirs.safetensors", stock()
    state, changes = kohya(theirs.unet, "lora_unet_") if form == "kohya" else renamed(form)
    save_file(state, file)
    theirs.load_lora_weights(str(tmp_path), weight_name=file.name)
    theirs.fuse_lora()
    here, _, _ = loaded(file)
    for path in changes:
        assert gap(weight(here, path), weight(theirs, path)) < TIGHT


def test_a_file_of_mixed_names_loses_nothing(tmp_path):
    first, changes = renamed("processor")
    second, more = kohya(stock().unet, "lora_unet_", ("attn1.to_v", "ff.net.2"), alpha=2.0, seed=90)
    save_file(first | second, tmp_path / "mixed.safetensors")
    exact(tmp_path / "mixed.safetensors", changes | more)


@pytest.mark.parametrize("ends", [TEXT, ("q_proj", "out_proj")])
@pytest.mark.parametrize("head", ["lora_te_", "lora_te1_"])
def test_kohya_s_text_encoder(tmp_path, ends, head):
    unet, _ = kohya(stock().unet, "lora_unet_")
    text, changes = kohya(stock().text_encoder, head, ends, text=True)
    save_file(unet | text, tmp_path / "theirs.safetensors")
    exact(tmp_path / "theirs.safetensors", changes, "text_encoder")
    theirs = stock()
    theirs.load_lora_weights(str(tmp_path), weight_name="theirs.safetensors")
    here, _, _ = loaded(tmp_path / "theirs.safetensors")
    assert gap(seen(here), seen(theirs)) < 1e-5


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_diffusers_text_encoder_of_early_2023(tmp_path, prefix):
    state, changes = {}, {}
    for path, (down, up) in pairs(stock().text_encoder, TEXT[:4]).items():
        bare, _, name = path.removeprefix("text_model.").rpartition(".")
        key = f"text_encoder.{prefix}{bare}.to_{name.removesuffix('_proj')}_lora"
        state |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
        changes[path] = up @ down
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    exact(tmp_path, changes, "text_encoder")


def test_two_text_encoders_of_sdxl(tmp_path):
    state, expected = {}, {}
    for number, part in ((1, "text_encoder"), (2, "text_encoder_2")):
        network = getattr(stock(xl=True), part)
        more, expected[part] = kohya(network, f"lora_te{number}_", TEXT, text=True, seed=number)
        state |= more
    save_file(state, tmp_path / "xl.safetensors")
    for part, changes in expected.items():
        exact(tmp_path / "xl.safetensors", changes, part, xl=True)
    with pytest.raises(UserError, match="'text_encoder_2', which this model has not"):
        load(stock(), tmp_path / "xl.safetensors")


def test_the_original_program_s_names_go_through_diffusers_converter(tmp_path):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = stock(xl=True).unet.get_submodule(path)
    down, up = noise(4, layer.in_features), noise(layer.out_features, 4, seed=1)
    names = {"kohya": key, "comfy": key.replace("lora_unet_", "diffusion_model.")}
    for name, each in names.items():
        state = {f"{each}.lora_down.weight": down, f"{each}.lora_up.weight": up}
        save_file(state, tmp_path / f"{name}.safetensors")
        exact(tmp_path / f"{name}.safetensors", {path: up @ down}, xl=True)


# ---------------------------------------------------------------- strengths


def trained(**options):
    """A stock U-Net with adapters as a training leaves them."""
    pipe = stock()
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ["to_k", "to_q"]} | options
    pipe.unet.add_adapter(LoraConfig(**settings))
    with torch.no_grad():
        for place, (name, value) in enumerate(pipe.unet.named_parameters()):
            if "lora_B" in name:
                value.copy_(noise(*value.shape, seed=place))
    return pipe


PATTERN = r"up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {PATTERN: 8}, "alpha_pattern": {PATTERN: 2}},
        {"alpha_pattern": {"to_q": 1}},
        {"use_dora": True},
    ],
)
def test_strengths_in_the_metadata_count(tmp_path, options):
    pipe = trained(**options)
    state = get_peft_model_state_dict(pipe.unet)
    notes = _collate_lora_metadata({"unet": pipe.unet})
    type(pipe).save_lora_weights(str(tmp_path), unet_lora_layers=state, **notes)
    here, undo, before = loaded(tmp_path)
    assert gap(torch.tensor(draw(here, "a duck")), torch.tensor(draw(pipe, "a duck"))) < 1e-4
    for path in layers(stock().unet, ("attn1.to_q", "attn2.to_k")):
        layer = pipe.unet.get_submodule(path)
        layer.merge()
        assert gap(weight(here, path), layer.get_base_layer().weight) < 1e-5
    undo()
    assert fingerprint(here) == before


def test_an_alpha_that_contradicts_the_metadata_is_refused(tmp_path):
    state, _ = kohya(stock().unet, "lora_unet_", alpha=2.0)
    notes = {"unet.r": 4, "unet.lora_alpha": 16}
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(notes)})
    with pytest.raises(UserError, match=r"contradicts itself.*0\.5.*4"):
        load(stock(), tmp_path / "a.safetensors")
    state, _ = kohya(stock().unet, "lora_unet_", alpha=None)
    notes = {"unet.r": 8, "unet.lora_alpha": 16}
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(notes)})
    with pytest.raises(UserError, match="rank 8.*rank 4"):
        load(stock(), tmp_path / "a.safetensors")


def test_a_strength_that_only_a_note_gives_is_said(tmp_path, caplog):
    state, changes = kohya(stock().unet, "lora_unet_", alpha=None)
    save_file(state, tmp_path / "a.safetensors", {"ss_network_alpha": "1.0", "ss_network_dim": "4"})
    exact(tmp_path / "a.safetensors", changes)
    assert "ss_network_alpha = 1 for rank 4" in caplog.text
    assert "personalizer.scale=0.25" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unet.init_lora_weights", "pissa"),
        ("unet.bias", "all"),
        ("unet.fan_in_fan_out", True),
        ("unet.modules_to_save", ["conv_in"]),
        ("unet.layer_replication", [[0, 1]]),
        ("unet.invented_next_year", 3),
    ],
)
def test_settings_that_change_the_sum_are_refused_by_name(tmp_path, key, value):
    state, _ = renamed("diffusers")
    notes = {"unet.r": 4, "unet.lora_alpha": 4, key: value}
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(notes)})
    with pytest.raises(UserError, match=key.removeprefix("unet.")):
        load(stock(), tmp_path / "a.safetensors")


@pytest.mark.parametrize("text", ["{broken", "[1, 2]"])
def test_settings_that_cannot_be_read_are_refused(tmp_path, text):
    state, _ = renamed("diffusers")
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    with pytest.raises(UserError, match="The settings in"):
        load(stock(), tmp_path / "a.safetensors")


# ---------------------------------------------------------------- peft's own folders


@pytest.mark.parametrize("config", ["lora", "loha", "lokr", "rslora"])
def test_peft_s_own_folder(tmp_path, config, caplog):
    made = {
        "lora": LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"]),
        "rslora": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["to_q"]),
        "loha": LoHaConfig(r=4, alpha=8, target_modules=["to_q"], init_weights=False),
        "lokr": LoKrConfig(r=2, alpha=4, target_modules=["to_q"], init_weights=False),
    }[config]
    pipe = stock()
    model = get_peft_model(pipe.unet, made)
    with torch.no_grad():
        for place, (name, value) in enumerate(model.named_parameters()):
            if any(part in name for part in ("lora_", "hada_", "lokr_")):
                value.copy_(noise(*value.shape, seed=place))
    model.save_pretrained(str(tmp_path / "unet"))
    changes = {
        path: model.base_model.model.get_submodule(path).get_delta_weight("default").detach()
        for path in layers(stock().unet, ("to_q",))
    }
    exact(tmp_path / "unet", changes)
    exact(tmp_path, changes)  # one folder a network, as peft's DreamBooth example
    assert recognise(tmp_path).kind == "dreambooth_lora"
    (tmp_path / "unet" / "adapter_config.json").unlink()
    load(stock(), tmp_path / "unet")
    assert "alpha is taken as the rank" in caplog.text


def test_peft_s_folders_of_two_networks(tmp_path):
    pipe = stock()
    for part, targets in (("unet", ["to_q"]), ("text_encoder", ["q_proj"])):
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        get_peft_model(getattr(pipe, part), config).save_pretrained(str(tmp_path / part))
    here, undo, before = loaded(tmp_path)
    for part, end in (("unet", "attn1.to_q"), ("text_encoder", "q_proj")):
        path = next(iter(layers(getattr(stock(), part), (end,))))
        assert gap(weight(here, path, part), weight(stock(), path, part)) > 1e-3
    undo()
    assert fingerprint(here) == before


def test_another_method_of_peft_is_refused_by_name(tmp_path):
    state, _ = renamed("wrapped")
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "VERA", "r": 4}')
    with pytest.raises(UserError, match="VERA"):
        load(stock(), tmp_path)


# ---------------------------------------------------------------- more than low rank


def test_a_bias_is_added_and_flags_stay(tmp_path):
    pipe = trained(lora_bias=True)
    state = get_peft_model_state_dict(pipe.unet)
    notes = _collate_lora_metadata({"unet": pipe.unet})
    type(pipe).save_lora_weights(str(tmp_path), unet_lora_layers=state, **notes)
    for options in ({}, {"merge": False}):
        here = stock()
        flags = [p.requires_grad for p in here.unet.parameters()]
        kept, before = here.unet, fingerprint(here)
        undo = load(here, tmp_path, **options)
        assert [p.requires_grad for p in kept.parameters()] == flags
        assert gap(torch.tensor(draw(here, "a duck")), torch.tensor(draw(pipe, "a duck"))) < 1e-4
        undo()
        assert fingerprint(here) == before


def test_lycoris_magnitudes(tmp_path):
    state, changes = kohya(stock().unet, "lora_unet_", alpha=4.0)
    for axis in (0, 1):
        scaled, expected = dict(state), {}
        for path, change in changes.items():
            old = weight(stock(), path)
            scale = 0.5 + noise(old.shape[0], 1).abs() if axis else noise(1, old.shape[1]).abs()
            scaled[f"lora_unet_{path.replace('.', '_')}.dora_scale"] = scale
            new = old + change
            expected[path] = new / (new.norm(dim=axis, keepdim=True) + 1e-7) * scale - old
        save_file(scaled, tmp_path / "dora.safetensors")
        exact(tmp_path / "dora.safetensors", expected)
    assert "DoRA" in recognise(tmp_path / "dora.safetensors").text
    half, _, _ = loaded(tmp_path / "dora.safetensors", scale=0.0)
    assert off_by(half, {}) < TIGHT


def test_half_the_scale_is_half_the_change(tmp_path):
    state, changes = renamed("diffusers")
    save_file(state, tmp_path / "a.safetensors")
    half, _, _ = loaded(tmp_path / "a.safetensors", scale=0.5)
    assert off_by(half, {path: change / 2 for path, change in changes.items()}) < TIGHT


def convolution(kind):
    """(parts, change) of conv_in, (32, 4, 3, 3), by one method of LyCORIS; alpha 2, rank 4."""
    r, o, i = 4, 32, 4
    if kind == "locon":
        down, up = noise(r, i, 3, 3), noise(o, r, 1, 1, seed=1)
        change = (up.reshape(o, r) @ down.reshape(r, -1)).reshape(o, i, 3, 3)
        return {"lora_down.weight": down, "lora_up.weight": up}, change / 2
    if kind == "tucker":
        down, mid, up = noise(r, i, 1, 1), noise(r, r, 3, 3, seed=1), noise(o, r, 1, 1, seed=2)
        change = torch.einsum("oa,abxy,bi->oixy", up[..., 0, 0], mid, down[..., 0, 0])
        parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
        return parts, change / 2
    if kind == "loha":
        a, b = noise(o, r), noise(r, i * 9, seed=1)
        c, d = noise(o, r, seed=2), noise(r, i * 9, seed=3)
        parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
        return parts, ((a @ b) * (c @ d)).reshape(o, i, 3, 3) / 2
    if kind == "loha tucker":
        t = [noise(r, r, 3, 3, seed=k) for k in (0, 1)]
        a, b = [noise(r, o, seed=k) for k in (2, 3)], [noise(r, i, seed=k) for k in (4, 5)]
        full = [torch.einsum("abxy,ao,bi->oixy", t[k], a[k], b[k]) for k in (0, 1)]
        names = [f"hada_{n}" for n in ("t1", "t2", "w1_a", "w2_a", "w1_b", "w2_b")]
        return dict(zip(names, [*t, *a, *b], strict=True)), full[0] * full[1] / 2
    if kind == "lokr":
        small, a, b = noise(4, 2), noise(8, r, seed=1), noise(r, 2 * 9, seed=2)
        change = torch.kron(small[..., None, None], (a @ b).reshape(8, 2, 3, 3))
        return {"lokr_w1": small, "lokr_w2_a": a, "lokr_w2_b": b}, change / 2
    if kind == "lokr full":
        small, large = noise(4, 2), noise(8, 2, 3, 3, seed=1)
        return {"lokr_w1": small, "lokr_w2": large}, torch.kron(small[..., None, None], large)
    return {"diff": noise(o, i, 3, 3)}, noise(o, i, 3, 3)


@pytest.mark.parametrize(
    "kind", ["locon", "tucker", "loha", "loha tucker", "lokr", "lokr full", "diff"]
)
def test_lycoris_on_a_convolution(tmp_path, kind):
    parts, change = convolution(kind)
    state = {f"lora_unet_conv_in.{name}": value for name, value in parts.items()}
    if kind != "diff":
        state["lora_unet_conv_in.alpha"] = torch.tensor(2.0)
    save_file(state, tmp_path / "a.safetensors")
    exact(tmp_path / "a.safetensors", {"conv_in": change})


def test_norms_and_biases_of_lycoris(tmp_path):
    shift = noise(32)
    state = {
        "lora_unet_conv_norm_out.w_norm": shift,
        "lora_unet_conv_norm_out.b_norm": 2 * shift,
        "lora_unet_conv_in.diff_b": 3 * shift,
    }
    save_file(state, tmp_path / "a.safetensors")
    here, _, _ = loaded(tmp_path / "a.safetensors")
    plain = stock().unet
    for name, factor in (
        ("conv_norm_out.weight", 1),
        ("conv_norm_out.bias", 2),
        ("conv_in.bias", 3),
    ):
        change = here.unet.get_parameter(name) - plain.get_parameter(name)
        assert gap(change, factor * shift) < TIGHT


# ---------------------------------------------------------------- what is not used is named


def test_every_entry_is_counted(tmp_path, caplog):
    unet, _ = kohya(stock().unet, "lora_unet_")
    text, _ = kohya(stock().text_encoder, "lora_te_", TEXT, text=True)
    save_file(unet | text, tmp_path / "a.safetensors")
    with caplog.at_level(logging.INFO, "framework"):
        load(stock(), tmp_path / "a.safetensors")
    number = len(unet) + len(text)
    assert f"Used {number} of {number} entries" in caplog.text
    assert "32 layer(s) of unet" in caplog.text
    assert "12 layer(s) of text_encoder" in caplog.text


STRAYS = {
    "half of a pair": ("lora_unet_conv_in.lora_down.weight", (4, 4, 3, 3), "no whole update"),
    "alpha alone": ("lora_unet_conv_in.alpha", (), "no whole update"),
    "magnitude alone": ("lora_unet_conv_in.dora_scale", (1, 4, 1, 1), "no whole update"),
    "no part": ("lora_unet_conv_in.lora_mystery", (4,), "no part of a LoRA"),
    "no layer": ("lora_unet_middle_earth.lora_down.weight", (4, 4), "another family"),
    "a transformer": ("transformer.blocks.0.lora_A.weight", (4, 4), "'transformer', which this"),
    "OFT": ("lora_unet_conv_in.oft_blocks", (4, 4, 4), "OFT"),
    "GLoRA": ("lora_unet_glora_x.a1.weight", (4, 4), "GLoRA"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_an_entry_without_use_is_named_and_refused(tmp_path, name):
    key, shape, message = STRAYS[name]
    state, _ = kohya(stock().unet, "lora_unet_")
    save_file(state | {key: torch.ones(shape)}, tmp_path / "a.safetensors")
    pipe = stock()
    before = fingerprint(pipe)
    with pytest.raises(UserError, match=message):
        load(pipe, tmp_path / "a.safetensors")
    assert fingerprint(pipe) == before


def test_a_shape_that_does_not_fit_is_refused_with_both(tmp_path):
    path = next(iter(layers(stock().unet)))
    for down, up in (((4, 48), (32, 4)), ((4, 32), (48, 4)), ((4, 32), (32, 8))):
        state = {
            f"unet.{path}.lora_A.weight": torch.ones(down),
            f"unet.{path}.lora_B.weight": torch.ones(up),
        }
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(UserError) as caught:
            load(stock(), tmp_path / "a.safetensors")
        assert str(down) in str(caught.value)
        assert "(32, 32)" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    state, _ = renamed("diffusers")
    key = next(iter(state))
    state[key] = torch.full_like(state[key], value)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not finite"):
        load(stock(), tmp_path / "a.safetensors")
    save_file({key: torch.zeros(0, 4)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="holds nothing under"):
        load(stock(), tmp_path / "a.safetensors")


def test_adapters_kept_apart_draw_the_same(tmp_path):
    state, _ = kohya(stock().unet, "lora_unet_", alpha=1.0)
    save_file(state, tmp_path / "a.safetensors")
    merged, _, _ = loaded(tmp_path / "a.safetensors")
    apart, _, _ = loaded(tmp_path / "a.safetensors", merge=False)
    assert gap(torch.tensor(draw(merged, "a duck")), torch.tensor(draw(apart, "a duck"))) < 1e-4
    assert apart.get_active_adapters() == ["my-duck"]
    parts, _ = convolution("loha")
    save_file({f"lora_unet_conv_in.{k}": v for k, v in parts.items()}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="personalizer.merge=true"):
        load(stock(), tmp_path / "b.safetensors", merge=False)


def test_a_second_file_adds_to_the_first(tmp_path):
    first, changes = renamed("diffusers")
    save_file(first, tmp_path / "a.safetensors")
    for merge in (True, False):
        pipe = stock()
        load(pipe, tmp_path / "a.safetensors", merge=merge)
        load(pipe, tmp_path / "a.safetensors")
        double = {path: change * (2 if merge else 1) for path, change in changes.items()}
        for path, change in double.items():
            assert gap(weight(pipe, path), weight(stock(), path) + change) < TIGHT


def test_updates_name_their_layers(tmp_path):
    state, changes = renamed("processor")
    save_file(state, tmp_path / "a.safetensors")
    updates = read_updates(stock(), tmp_path / "a.safetensors")
    assert {place.path for place in updates} == set(changes)
    assert len(ATTENTION) * 16 == len(updates)
