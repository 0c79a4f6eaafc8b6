"""``dreammatcher train`` on a real folder layout: a saved pipeline and a folder of pictures."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from framework.cli.main import main


@pytest.fixture
def arguments(sd1, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sd1.save_pretrained("model")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(2):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    return [
        "train",
        "model.path=model",
        "concept.path=photos",
        "concept.class_name=duck",
        "concept.name=my-duck",
        "personalizer.steps=2",
        "personalizer.batch_size=1",
        "personalizer.resolution=64",
    ]


def test_trains_resumes_and_says_how_to_go_on(arguments, tmp_path, capsys):
    assert main([*arguments, "seed=3"]) == 0
    folder = tmp_path / "runs" / "train" / "my-duck-textual_inversion"
    assert load_file(folder / "learned_embeds.safetensors").keys() == {"<my-duck>"}
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["personalizer"]["steps"] == 2
    assert resolved["seed"] == 3
    printed = capsys.readouterr().out
    command = shlex.split(printed.strip().splitlines()[-1])
    assert command[:2] == ["dreammatcher", "sample"]
    assert f"concept.weights={folder.relative_to(tmp_path)}/learned_embeds.safetensors" in command
    assert "concept.class_name=duck" in command
    assert "model.path=model" in command

    before = (folder / "learned_embeds.safetensors").read_bytes()
    assert main([*arguments, "seed=3"]) == 0
    assert (folder / "learned_embeds.safetensors").read_bytes() == before
    assert main([*arguments, "--output", str(folder), "seed=4"]) == 2
    assert "another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("concept.path=none", "does not exist"),
        ("concept.class_name=null", "class_name"),
        ("concept.placeholder=duck", "already in"),
        ("concept.weights=x", "Leave it out"),
        ("personalizer.stepps=1", "Did you mean 'steps'"),
        ("personalizer.steps=0", "at least 1"),
        ("personalizer.name=textual", "Did you mean 'textual_inversion'"),
        ("model.path=photos", "no diffusers pipeline"),
    ],
)
def test_bad_input_leaves_nothing_behind(arguments, tmp_path, capsys, extra, words):
    assert main([*arguments, extra]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_damaged_picture_is_named(arguments, tmp_path, capsys):
    picture = tmp_path / "photos" / "1.png"
    picture.write_bytes(picture.read_bytes()[:200])
    assert main(arguments) == 2
    assert "1.png" in capsys.readouterr().err


def test_what_was_printed_draws_and_the_folder_alone_is_enough(arguments, capsys):
    """LoRA from training to a picture, first as the command said, then by one line."""
    words = ["train", "personalizer=dreambooth_lora", *arguments[1:], "personalizer.prior=false"]
    assert main(words) == 0
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    quick = ["sampler.num_inference_steps=2", "injector.start_step=1", "mask.resolution=4"]
    quick += ["extractor.pca=8"]
    assert main([*shlex.split(printed)[1:], *quick, "--output", "said"]) == 0
    folder = "runs/train/my-duck-dreambooth_lora"
    words = ["sample", "model.path=model", "concept.path=photos", f"concept.weights={folder}"]
    words += ["--prompt", "a photo of a {}", "--output", "short"]
    assert main([*words, *quick]) == 0
    assert "Found LoRA of the U-Net and text encoder, rank 16" in capsys.readouterr().err
    pictures = [np.asarray(Image.open(f"{name}/000-0.png")) for name in ("said", "short")]
    assert np.array_equal(*pictures)
