"""Model folders: what is not needed may be missing, what is needed is whole, or it is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_formats import gap, stock, weight

from framework.backbones.components import pick_variant
from framework.backbones.loading import load_pipeline
from framework.config.page import ModelConfig
from framework.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "plain"
    stock().save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def loaded(folder, **options):
    return load_pipeline(ModelConfig(path=str(folder), device="cpu", **options))


def reindex(folder, **changes):
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


def refused(folder, message, **options):
    with pytest.raises(UserError, match=message):
        loaded(folder, **options)


UNNEEDED = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}


@pytest.mark.parametrize("name", [*UNNEEDED, "all"])
def test_parts_that_draw_nothing_may_be_missing(model, name):
    reindex(model, **(UNNEEDED if name == "all" else {name: UNNEEDED[name]}))
    pipe = loaded(model)
    assert getattr(pipe, "feature_extractor", None) is None
    assert gap(weight(pipe, "conv_in"), weight(stock(), "conv_in")) == 0


def test_the_only_variant_is_taken_and_one_of_several_must_be_named(tmp_path, caplog):
    stock().save_pretrained(tmp_path / "m", variant="fp16")
    for variant in (None, "fp16"):
        pipe = loaded(tmp_path / "m", variant=variant)
        assert gap(weight(pipe, "conv_in"), weight(stock(), "conv_in")) == 0
    stock().unet.save_pretrained(tmp_path / "m" / "unet", variant="non_ema")
    refused(tmp_path / "m", "variants fp16, non_ema")
    assert loaded(tmp_path / "m", variant="fp16").unet is not None


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None, None),
        (["model.safetensors", "model.fp16.safetensors"], "fp16", "fp16"),
        (["model.safetensors"], "fp16", None),
        (["model.fp16-00001-of-00002.safetensors"], None, "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.fp16.bin"], None, "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.bin"], None, None),
        (["._model.fp16.safetensors", "pytorch_model.bin"], None, None),
    ],
)
def test_variants_by_the_names_of_files(tmp_path, names, wanted, expected):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert pick_variant(tmp_path, wanted) == expected


WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_weight_that_is_missing_is_not_filled_at_random(model, part):
    file = model / part / WEIGHTS[part]
    state = load_file(file)
    del state[next(key for key in state if key.endswith("bias"))]
    save_file(state, file, {"format": "pt"})
    refused(model, f"{part} lacks 1 weight.*at random")


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_not_finite_are_refused(model, part):
    file = model / part / WEIGHTS[part]
    state = load_file(file)
    key = next(key for key in state if key.endswith("bias"))
    state[key][0] = float("nan")
    save_file(state, file, {"format": "pt"})
    refused(model, f"{part} has values that are not finite")


def test_a_weight_without_a_place_is_said(model, caplog):
    file = model / "unet" / WEIGHTS["unet"]
    save_file(load_file(file) | {"stranger.weight": torch.ones(2)}, file, {"format": "pt"})
    loaded(model)
    assert "1 weight(s) that a UNet2DConditionModel has no place for" in caplog.text


def cut(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def write(folder, name, text):
    (folder / name).write_text(text)


DAMAGE = {
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
    "empty tokenizer": (
        lambda f: [file.unlink() for file in (f / "tokenizer").iterdir()],
        "tokenizer",
    ),
    "no U-Net": (lambda f: shutil.rmtree(f / "unet"), "no folder 'unet'"),
    "no weights": (lambda f: (f / "unet" / WEIGHTS["unet"]).unlink(), "unet cannot be loaded"),
    "half the weights": (lambda f: cut(f, f"unet/{WEIGHTS['unet']}"), "unet cannot be loaded"),
    "no config": (lambda f: (f / "vae" / "config.json").unlink(), "no config.json"),
    "broken config": (lambda f: write(f, "vae/config.json", "{"), "vae cannot be loaded"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "cannot be loaded"),
    "wrong class": (lambda f: reindex(f, unet=["diffusers", "AutoencoderKL"]), "cannot be loaded"),
    "unknown class": (lambda f: reindex(f, unet=["diffusers", "Foo"]), "which is no network"),
    "unknown library": (lambda f: reindex(f, vae=["mine", "Foo"]), "which is no network"),
    "a tokenizer as encoder": (
        lambda f: reindex(f, text_encoder=["transformers", "CLIPTokenizer"]),
        "which is no network",
    ),
    "unknown scheduler": (
        lambda f: reindex(f, scheduler=["diffusers", "FooScheduler"]),
        "FooScheduler",
    ),
    "an encoder as tokenizer": (
        lambda f: reindex(f, tokenizer=["diffusers", "DDIMScheduler"]),
        "tokenizer",
    ),
    "broken index": (lambda f: write(f, "model_index.json", "{"), "model_index.json"),
    "index is a list": (lambda f: write(f, "model_index.json", "[1]"), "expected a mapping"),
    "index without class": (lambda f: reindex(f, _class_name=None), "not supported"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_a_sentence(model, name):
    spoil, message = DAMAGE[name]
    spoil(model)
    refused(model, message)


def test_another_scheduler_than_its_own_configuration_names_is_said(model, caplog):
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "FooScheduler"}))
    assert type(loaded(model).scheduler).__name__ == "DDIMScheduler"
    assert "says its scheduler is a FooScheduler" in caplog.text


def test_paths_that_are_none(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / ("x" * 300), "does not exist")
    refused(tmp_path, "no model_index.json")
