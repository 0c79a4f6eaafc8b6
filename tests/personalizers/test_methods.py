"""What holds for every trained method, on a tiny pipeline; each is trained once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_sd
from tiny_personal import draw, fingerprint, make_concept

from framework.concepts.folders import read_concept_file
from framework.errors import UserError
from framework.interfaces import PERSONALIZERS
from framework.training.data import ConceptBatches
from framework.training.finished import NOTE
from framework.training.formats.recognise import recognise
from framework.training.objective import Objective

METHODS = ("textual_inversion", "dreambooth", "dreambooth_lora", "custom_diffusion")
QUICK = {"steps": 4, "batch_size": 1, "resolution": 64, "checkpoint_every": 2, "logger": "none"}
PRIOR = {"prior_images": 2, "prior_steps": 1, "prior_guidance": 1.0}
#: Large rates, so that four updates show in a picture.
OPTIONS = {
    "textual_inversion": {"learning_rate": 0.1, "vectors": 2},
    "dreambooth": {"learning_rate": 1e-3, **PRIOR},
    "dreambooth_lora": {"learning_rate": 0.1, "alpha": 8.0, "train_text_encoder": True, **PRIOR},
    "custom_diffusion": {"learning_rate": 1e-2, "queries": True, "ema": 0.5, **PRIOR},
}
NEW_WORD = ("textual_inversion", "custom_diffusion")


def concept_for(name):
    return make_concept(placeholder="<my-duck>" if name in NEW_WORD else "toy")


def method(name, **options):
    return PERSONALIZERS.get(name)(**(QUICK | OPTIONS[name] | options))


def train(pipe, name, folder, seed=0, **options):
    return method(name, **options).train(pipe, concept_for(name), Path(folder), seed=seed)


@pytest.fixture(scope="module")
def learned(sd1, tmp_path_factory):
    """Weights of every method, each trained once; training leaves the pipeline as it was."""
    paths = {}
    for name in METHODS:
        before = fingerprint(sd1)
        paths[name] = train(sd1, name, tmp_path_factory.mktemp(name))
        assert fingerprint(sd1) == before
    return paths


def plain_pipeline(name, path, monkeypatch):
    """A stock pipeline with the weights loaded by diffusers alone."""
    pipe = tiny_sd(sample_size=16)
    if name == "dreambooth":
        pipe = StableDiffusionPipeline.from_pretrained(path)
    elif name == "dreambooth_lora":
        # transformers asks for a peft newer than any that is released when these were pinned
        monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda **k: None)
        pipe.load_lora_weights(str(path.parent))
    elif name == "custom_diffusion":
        pipe.unet.load_attn_procs(str(path.parent), weight_name=path.name, _pipeline=pipe)
        pipe.load_textual_inversion(str(path.parent), weight_name="<my-duck>.bin")
    else:
        pipe.load_textual_inversion(str(path))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", METHODS)
def test_a_stock_pipeline_draws_the_same_and_undoing_is_exact(sd1, learned, name, monkeypatch):
    concept, path = concept_for(name), learned[name]
    prompt = f"a photo of a {concept.phrase} on grass"
    before, plain = fingerprint(sd1), draw(sd1, "a photo of a duck on grass")
    undo = method(name).load(sd1, path, concept)
    ours = draw(sd1, prompt)
    undo()
    undo()
    assert fingerprint(sd1) == before
    assert np.array_equal(draw(sd1, "a photo of a duck on grass"), plain)
    stock = draw(plain_pipeline(name, path, monkeypatch), prompt)
    assert np.abs(ours - stock).max() < 1e-4
    assert np.abs(ours - plain).max() > 1e-2


@pytest.mark.parametrize("name", METHODS)
def test_the_folder_says_what_it_is(learned, name):
    found = recognise(learned[name])
    assert found.kind == name
    folder = learned[name].parent
    assert recognise(folder).kind == name
    assert read_concept_file(folder)["placeholder"] == concept_for(name).placeholder
    assert (folder / "checkpoints").exists() == (name != "dreambooth")
    if name in NEW_WORD:
        assert found.word == "<my-duck>"


@pytest.mark.parametrize("name", ["dreambooth", "dreambooth_lora", "custom_diffusion"])
def test_a_stopped_training_goes_on_to_the_same_weights(sd1, learned, name, tmp_path, monkeypatch):
    original = ConceptBatches.batch

    def fail(self, step):
        if step == 3:
            raise RuntimeError("the machine went away")
        return original(self, step)

    before = fingerprint(sd1)
    with monkeypatch.context() as patch:
        patch.setattr(ConceptBatches, "batch", fail)
        with pytest.raises(RuntimeError, match="went away"):
            train(sd1, name, tmp_path)
    assert fingerprint(sd1) == before
    path = train(sd1, name, tmp_path)
    for first, second in zip(tensors(learned[name]), tensors(path), strict=True):
        assert torch.equal(first, second)


def tensors(path):
    if path.is_dir():
        path = path / "unet" / "diffusion_pytorch_model.safetensors"
    found = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    return [value for _, value in sorted(found.items()) if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_training_is_not_done_again(sd1, learned, name, monkeypatch):
    monkeypatch.setattr(ConceptBatches, "batch", None)
    assert train(sd1, name, Path(learned[name]).parent) == learned[name]
    with pytest.raises(UserError, match="another training"):
        train(sd1, name, Path(learned[name]).parent, learning_rate=0.5)


def test_accumulated_batches_are_one_update_and_resume(sd1, tmp_path, monkeypatch):
    """Two batches of one picture draw what is drawn; updates, checkpoints and mean count once."""
    seen, original = [], ConceptBatches.batch
    monkeypatch.setattr(
        ConceptBatches, "batch", lambda self, step: seen.append(step) or original(self, step)
    )
    options = {"accumulate": 2, "ema": 0.9, "vectors": 1}
    whole = train(sd1, "textual_inversion", tmp_path / "whole", **options)
    assert seen[:8] == list(range(8)) and len(seen) <= 9  # the loader may look one ahead
    saved = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert saved == ["step-000002.ckpt", "step-000004.ckpt"]
    state = torch.load(tmp_path / "whole" / "checkpoints" / saved[1], weights_only=True)
    row = load_file(whole)["<my-duck>"]
    assert torch.equal(row, state["average"]["clip_l"])
    assert not torch.equal(row, state["state_dict"]["trained.clip_l"])
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / saved[0], tmp_path / "half" / "checkpoints")
    seen.clear()
    again = train(sd1, "textual_inversion", tmp_path / "half", **options)
    assert seen[0] == 4
    assert again.read_bytes() == whole.read_bytes()


def test_class_images_are_drawn_once_and_yours_are_taken(sd1, tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "mine.png")
    options = {"prior_folder": str(folder), "steps": 1}
    train(sd1, "dreambooth_lora", tmp_path / "a", **options)
    drawn = sorted(path.name for path in folder.glob("*.png"))
    assert drawn == ["class-0000.png", "mine.png"]
    kept = (folder / drawn[0]).read_bytes()
    (folder / drawn[0]).unlink()
    train(sd1, "dreambooth_lora", tmp_path / "b", **options)
    assert (folder / drawn[0]).read_bytes() == kept
    with pytest.raises(UserError, match="drawn otherwise"):
        train(sd1, "dreambooth_lora", tmp_path / "c", **options | {"prior_steps": 2})
    (folder / "note.txt").write_text("passed over, and no class image")
    (folder / "note.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"note\.png"):
        train(sd1, "dreambooth_lora", tmp_path / "d", **options)


def test_the_prior_weighs_as_it_says(sd1):
    objective = Objective.of(sd1)
    latents = torch.ones(3, 4, 2, 2)
    batch = ConceptBatches.__new__(ConceptBatches)
    from framework.training.data import Batch

    batch = Batch(
        latents, torch.zeros_like(latents), torch.zeros(3, dtype=torch.int64), [""] * 3,
        torch.tensor([0.5, 0.5, 0.25]),
    )  # fmt: skip
    output = torch.stack([torch.full((4, 2, 2), value) for value in (1.0, 2.0, 4.0)])
    assert float(objective.loss(output, batch)) == pytest.approx(0.5 * 1 + 0.5 * 4 + 0.25 * 16)


def test_previews_and_a_loss_curve_change_nothing(sd1, learned, tmp_path):
    path = train(
        sd1,
        "textual_inversion",
        tmp_path,
        preview_every=2,
        preview_prompts=["a photo of a {}", "a {} on grass"],
        preview_steps=1,
        logger="csv",
        log_every=1,
    )
    assert path.read_bytes() == learned["textual_inversion"].read_bytes()
    shown = sorted(entry.name for entry in (tmp_path / "previews").iterdir())
    assert shown == [f"step-{step:06d}-{index}.png" for step in (2, 4) for index in (0, 1)]
    curve = (tmp_path / "logs" / "from-000000" / "metrics.csv").read_text().splitlines()
    assert "loss" in curve[0] and len(curve) > 4


def test_tensorboard(sd1, tmp_path):
    pytest.importorskip("tensorboard")
    train(sd1, "textual_inversion", tmp_path, logger="tensorboard", steps=1)
    assert list((tmp_path / "logs" / "from-000000").glob("events*"))


def test_a_full_disk_is_one_message(sd1, tmp_path, monkeypatch):
    def full(self, *args, **options):
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(sd1), "save_pretrained", full)
    with pytest.raises(UserError, match="disk is full"):
        train(sd1, "dreambooth", tmp_path, steps=1, prior=False)
    assert not (tmp_path / NOTE).exists()
    assert not (tmp_path / "pipeline").exists()
    assert not list(tmp_path.glob(".pipeline*"))
    assert list((tmp_path / "checkpoints").iterdir())  # with room again it ends at once


@pytest.mark.parametrize(
    ("name", "changes", "options", "message"),
    [
        ("dreambooth", {"placeholder": ""}, {}, "placeholder is empty"),
        ("dreambooth", {"placeholder": "duck"}, {}, "the class name itself"),
        ("custom_diffusion", {"placeholder": "duck"}, {}, "already in"),
        ("custom_diffusion", {}, {"initializer": " "}, "no word"),
        ("dreambooth_lora", {}, {"targets": ["to_x"]}, "ends the name of no"),
        ("dreambooth_lora", {}, {"targets": []}, "targets is empty"),
        ("dreambooth", {}, {"devices": 4096}, "this machine has"),
    ],
)
def test_what_cannot_be_learned_is_refused_first(sd1, tmp_path, name, changes, options, message):
    concept = make_concept(**({"placeholder": concept_for(name).placeholder} | changes))
    with pytest.raises(UserError, match=message):
        method(name, **options).train(sd1, concept, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_out_of_range():
    for name, options, message in (
        ("dreambooth", {"prior_template": "a photo"}, "where the class name belongs"),
        ("textual_inversion", {"ema": 1.0}, "between 0 and 1"),
        ("textual_inversion", {"logger": "csvv"}, "Did you mean 'csv'"),
        ("textual_inversion", {"crop": "centre"}, "Did you mean 'center'"),
    ):
        with pytest.raises(UserError, match=message):
            method(name, **options)


# A word of one text encoder is no other family's: SDXL's first encoder is Stable Diffusion's own.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "textual_inversion"])
def test_another_family_is_refused_with_both_shapes(sdxl, sd1, learned, name):
    before = fingerprint(sdxl)
    with pytest.raises(UserError) as caught:
        method(name).load(sdxl, learned[name], concept_for(name))
    message = str(caught.value)
    assert "family" in message
    assert fingerprint(sdxl) == before
    if name in ("dreambooth_lora", "custom_diffusion"):
        assert message.count("(") >= 2 or "has no such" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreambooth_lora", "custom_diffusion", "dreambooth"])
def test_two_text_encoders(sdxl, tmp_path, name):
    before, concept = fingerprint(sdxl), concept_for(name)
    path = train(sdxl, name, tmp_path, steps=1)
    assert fingerprint(sdxl) == before
    undo = method(name).load(sdxl, path, concept)
    changed = draw(sdxl, f"a photo of a {concept.phrase}")
    undo()
    assert fingerprint(sdxl) == before
    assert np.isfinite(changed).all()


@pytest.mark.slow
def test_two_processes_train_together(sd1, tmp_path):
    """Each takes its share of the batches; the first writes, and tells how to go on."""
    sd1.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(make_concept().images):
        image.save(tmp_path / "photos" / f"{index}.png")
    words = ["train", f"model.path={tmp_path / 'model'}", f"concept.path={tmp_path / 'photos'}"]
    words += ["concept.class_name=duck", "personalizer=dreambooth_lora", "model.device=cpu"]
    words += ["personalizer.steps=2", "personalizer.batch_size=1", "personalizer.resolution=64"]
    words += ["personalizer.prior=false", "personalizer.identifier=toy", "personalizer.devices=2"]
    command = [sys.executable, "-m", "framework.cli.main", *words, "--output"]
    done = subprocess.run(
        [*command, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Done in") == 1
    assert (tmp_path / "run" / "pytorch_lora_weights.safetensors").is_file()
    assert json.loads((tmp_path / "run" / NOTE).read_text())["file"]
