"""``dreammatcher sample`` on a saved checkpoint of the real Stable Diffusion 1.x classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from framework.cli.main import main
from framework.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def place(sd1, tmp_path_factory):
    """A folder with a checkpoint and two photographs."""
    folder = tmp_path_factory.mktemp("sample")
    sd1.save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    return folder


@pytest.fixture
def arguments(place, tmp_path, monkeypatch):
    """A command that draws one image in three steps, into the current folder."""
    monkeypatch.chdir(tmp_path)
    return [
        "sample",
        "--config",
        "models/sd1",
        f"model.path={place / 'model'}",
        f"concept.path={place / 'photos'}",
        "concept.class_name=dog",
        'concept.placeholder=""',
        "mask.resolution=4",
        "injector.start_step=1",
        "sampler.num_inference_steps=3",
        "sampler.scheduler=DDIMScheduler",
    ]


def names(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_draws_every_prompt_with_every_seed(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "--prompt",
        "a photo of a {}",
        "--prompt",
        "a {} in snow",
        "--seed",
        "0",
        "--seed",
        "7",
    ]
    words += ["--output", str(out), "--baseline"]
    assert main([*arguments, *words]) == 0
    images = [f"00{prompt}-{seed}.png" for prompt in (0, 1) for seed in (0, 7)]
    expected = [*images, *(f"baseline/{name}" for name in images), "config.yaml", "prompts.json"]
    assert names(out) == sorted(expected)
    index = json.loads((out / "prompts.json").read_text())
    assert [entry["filled"] for entry in index] == ["a photo of a dog", "a dog in snow"]
    assert index[1]["images"] == {"0": "001-0.png", "7": "001-7.png"}
    drawn = {name: np.asarray(Image.open(out / name)) for name in names(out) if "png" in name}
    assert all(picture.shape == (128, 128, 3) for picture in drawn.values())
    assert any((drawn[name] != drawn[f"baseline/{name}"]).any() for name in images)
    assert (drawn["000-0.png"] != drawn["000-7.png"]).any()
    captured = capsys.readouterr()
    assert f"4 image(s) in {out}" in captured.out
    assert "Loading" not in captured.err


def test_images_that_are_there_are_not_drawn_again(arguments, tmp_path, monkeypatch, capsys):
    words = [*arguments, "--seed", "0", "--seed", "1"]
    assert main(words) == 0
    out = tmp_path / "runs" / "sample" / "photos"
    first = np.asarray(Image.open(out / "000-0.png")).astype(int)
    (out / "000-0.png").unlink()
    (out / "000-1.png").write_bytes(b"kept")
    drawn = []
    call = Sampler.__call__

    def counted(self, prompt, **options):
        drawn.extend(options["seed"])
        return call(self, prompt, **options)

    monkeypatch.setattr(Sampler, "__call__", counted)
    assert main(words) == 0
    assert drawn == [0]
    again = np.asarray(Image.open(out / "000-0.png")).astype(int)
    assert abs(again - first).max() <= 1  # alone in its batch sums may round differently
    assert (out / "000-1.png").read_bytes() == b"kept"
    assert "1 images of this configuration are there already" in capsys.readouterr().err

    assert main([*words, "--output", str(out), "matcher.cycle_threshold=0.1"]) == 2
    shown = capsys.readouterr().err
    assert "holds the run of another configuration: matcher.cycle_threshold is 0.4 there" in shown


def test_an_interrupted_run_keeps_whole_images_and_goes_on(arguments, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = [*arguments, "--seed", "0", "--seed", "1", "--output", str(out)]
    words += ["sampler.batch_size=1"]
    call, calls = Sampler.__call__, []

    def interrupted(self, prompt, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return call(self, prompt, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "__call__", interrupted)
        assert main(words) == 130
    assert names(out) == ["000-0.png", "config.yaml", "prompts.json"]
    assert main([*words, "sampler.batch_size=2"]) == 0
    assert names(out) == ["000-0.png", "000-1.png", "config.yaml", "prompts.json"]


def test_trace(arguments, tmp_path):
    out = tmp_path / "out"
    assert main([*arguments, "--seed", "3", "--trace", "--output", str(out)]) == 0
    seen = load_file(out / "trace" / "000-3.safetensors")
    assert seen["000/target_clean"].shape == (4, 16, 16)
    assert "000/flow" not in seen
    assert seen["002/flow"].shape == (16, 16, 2)
    assert seen["002/confidence"].shape == seen["002/mask_target"].shape == (16, 16)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prompt", "a cat on the moon"], "does not mention the concept"),
        (["--seed", "-1"], "seeds has -1"),
        (["--seed", "1", "--seed", "1"], "seeds has a value twice"),
        (["sampler.num_inference_steps=0"], "sampler.num_inference_steps is 0"),
        (["sampler.guidance_scale=-1"], "sampler.guidance_scale is -1; expected at least 0."),
        (
            ["injector.layers=['up_blocks.7.*']"],
            "no layer of this model matches",
        ),
        (
            ["extractor.blocks=['up_blocks.9']"],
            "no layer of this model matches",
        ),
        (["concept.path=nowhere"], "'nowhere' does not exist"),
        (["concept.class_name=null"], "Nothing says what"),
        (["model.path=./nowhere"], "does not exist"),
        (["model.path=."], "is no diffusers pipeline"),
        (["sampler.reference_index=5"], "reference_index is 5"),
        (["sampler.height=100"], "height is 100"),
    ],
)
def test_bad_input_leaves_no_output(arguments, tmp_path, capsys, words, expected):
    assert main([*arguments, *words, "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert expected in shown[-1]
    assert sum("error" in line for line in shown) == 1
    assert not (tmp_path / "out").exists()


def test_a_concept_nothing_has_taught_the_model(arguments, capsys, tmp_path):
    words = [word for word in arguments if not word.startswith("concept.placeholder")]
    assert main([*words, "--prompt", "a photo of a {}"]) == 0
    assert "seems not to have learned the word '<photos>'" in capsys.readouterr().err
