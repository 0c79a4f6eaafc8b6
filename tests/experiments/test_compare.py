import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import tiny_sd
from tiny_encoders import flat, mean_colour, named_colours, save_clip, save_identity

from framework.cli.main import main
from framework.concepts.folders import load_concept, write_concept_file
from framework.config.page import load_config
from framework.errors import UserError
from framework.experiments.compare import (
    BASELINE,
    TREATED,
    baseline_config,
    cells,
    check_prompts,
    compare_arms,
)
from framework.experiments.two_pass import finished
from framework.metrics.judge import Judge
from framework.metrics.loading import Encoders
from framework.training.personalize import NOTE, fingerprint, learn

WORDS = ['prompts=["a photo of a {} on the grass"]', "seeds=[0,1]"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, encoders and a library of two concepts, all tiny, on disk."""
    root = tmp_path_factory.mktemp("world")
    tiny_sd(sample_size=16).save_pretrained(root / "sd")
    save_clip(root / "clip")
    save_identity(root / "identity")
    rng = np.random.default_rng(0)
    for name, noun in (("blot", "mug"), ("smear", "duck")):
        folder = root / "library" / name
        folder.mkdir(parents=True)
        for index in range(2):
            array = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(array).resize((64, 64)).save(folder / f"{index}.png")
        write_concept_file(folder, noun)
    return root


@pytest.fixture
def settings(world):
    """Overrides that make everything run on the tiny world."""
    return [
        f"model.path={world / 'sd'}",
        f"evaluation.clip={world / 'clip'}",
        f"evaluation.identity={world / 'identity'}",
        f"concept.library={world / 'library'}",
        "personalizer.steps=2",
        "sampler.num_inference_steps=2",
        "injector.start_step=1",
        "mask.resolution=4",
        "extractor.pca=8",
        *WORDS,
    ]


def configured(settings):
    return load_config(None, [*settings, "concept.name=blot", "concept.placeholder=''"])


def test_cells_are_every_prompt_with_every_seed():
    assert [cell.file for cell in cells(["a {}", "b {}"], [0, 7])] == [
        "0-0.png", "0-7.png", "1-0.png", "1-7.png"
    ]  # fmt: skip
    with pytest.raises(UserError, match="seeds has a value twice"):
        cells(["a {}"], [1, 1])


def test_the_baseline_differs_in_injector_and_guidance_only(settings):
    config = configured(settings)
    plain = baseline_config(config)
    assert plain.injector == plain.guidance == {"name": "none"}
    assert replace(plain, injector=config.injector, guidance=config.guidance) == config


def test_arms_start_from_the_same_noise(settings, sd1):
    config = configured(settings)
    concept = load_concept(config.concept)
    judge = Judge(Encoders(mean_colour, mean_colour, named_colours), concept)
    found = compare_arms(sd1, concept, config, judge=judge, traced=[1])
    old, new = found.arms[BASELINE], found.arms[TREATED]
    assert [cell.seed for cell in found.cells] == [0, 1]
    assert len(old.images) == len(new.images) == len(new.scores["identity"]) == 2
    assert [step.matched for step in new.trace] == [False, True]
    assert len(new.trace[-1].latents) == 1 and old.trace == []
    assert not np.array_equal(old.images[0], new.images[0])
    plain = compare_arms(sd1, concept, baseline_config(config))
    for mine, other in zip(old.images, plain.arms[TREATED].images, strict=True):
        np.testing.assert_array_equal(mine, other)
    untraced = compare_arms(sd1, concept, config).arms[TREATED].images
    for mine, other in zip(new.images, untraced, strict=True):
        assert np.abs(np.asarray(mine, int) - np.asarray(other, int)).max() <= 1


def test_prompts_are_checked_before_training(settings, sd1):
    config = load_config(None, [*settings, "concept.name=blot"])
    concept = load_concept(config.concept)
    check_prompts(sd1, concept, config)
    with pytest.raises(UserError, match="does not mention the concept"):
        check_prompts(sd1, concept, replace(config, prompts=["a photo"]))


class Counting:
    """A personalizer that notes how often it trains."""

    def __init__(self):
        self.trained = 0

    def train(self, pipe, concept, folder, *, seed=0):
        self.trained += 1
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text("learned")
        return folder / "weights"


def test_weights_are_learned_once(settings, tmp_path, monkeypatch):
    config = load_config(None, [*settings, "concept.name=blot"])
    concept, personalizer = load_concept(config.concept), Counting()
    monkeypatch.setattr(type(config), "part", lambda self, kind: personalizer)
    assert not learn(None, concept, config, tmp_path).reused
    again = learn(None, concept, config, tmp_path)
    assert again.reused and again.seconds is not None and personalizer.trained == 1
    assert not learn(None, concept, replace(config, seed=1), tmp_path).reused
    other = replace(concept, images=(flat((1, 2, 3)),))
    assert not learn(None, other, config, tmp_path).reused
    (tmp_path / NOTE).write_text("{broken")
    assert not learn(None, concept, config, tmp_path).reused
    assert personalizer.trained == 4
    given = replace(config, concept=replace(config.concept, weights="elsewhere"))
    assert learn(None, concept, given, tmp_path).path == Path("elsewhere")


def test_demo_writes_a_complete_run_and_reuses_weights(settings, tmp_path, capsys):
    words = ["demo", "--concept", "blot", "--output", str(tmp_path / "run"), *settings]
    assert main(words) == 0
    run = tmp_path / "run"
    for arm in (BASELINE, TREATED):
        assert sorted(p.name for p in (run / "images" / arm).iterdir()) == ["0-0.png", "0-1.png"]
    report = json.loads((run / "metrics.json").read_text())
    for name in ("identity", "clip_image", "clip_text"):
        difference = report[TREATED][name] - report[BASELINE][name]
        assert report["difference"][name] == pytest.approx(difference)
    assert report["scale"]["identity"]["one"] is not None
    assert report["seconds"]["training_reused"] is False
    assert {"torch", "diffusers"} <= set(report["versions"])
    for name in ("grid.png", "matches.png"):
        with Image.open(run / name) as image:
            assert image.width > 700
    assert "identity" in capsys.readouterr().out
    first = (run / "images" / TREATED / "0-0.png").read_bytes()
    assert main(words) == 0
    assert json.loads((run / "metrics.json").read_text())["seconds"]["training_reused"] is True
    assert (run / "images" / TREATED / "0-0.png").read_bytes() == first


def test_demo_with_own_pictures_and_one_of_them(settings, world, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    flat((200, 10, 10), 80).resize((80, 60)).save(photos / "one.jpg")
    note = {"model": {"notes": {str(world / "sd"): "It knows only noise."}}}
    config = tmp_path / "note.yaml"
    config.write_text(json.dumps(note))
    words = ["demo", "--images", str(photos), "--class-name", "dog", "--config", str(config)]
    assert main([*words, "--output", str(tmp_path / "run"), *settings]) == 0
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["scale"]["identity"]["one"] is None
    assert "single picture" in report["scale"]["identity"]["reason"]
    assert report["difference"]["scaled"]["identity"] is None
    said = capsys.readouterr()
    assert "It knows only noise." in said.err and "single picture" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--concept", "blott"], "Unknown concept 'blott'. Did you mean 'blot'?"),
        (["--concept", "blot", "--class-name", "mug"], "belongs to --images"),
        (["--concept", "blot", "--images", "x"], "not allowed with"),
        (["--concept", "blot", "prompts=[a photo]"], "does not mention the concept"),
        (["--concept", "blot", "injector.layers=[nowhere]"], "nowhere"),
        (["--concept", "blot", "mask.resolution=5"], "mask.resolution"),
        (["--concept", "blot", "evaluation.clip=./nowhere"], "evaluation.clip"),
        (["--concept", "blot", "evaluation.text=plane"], "evaluation.text"),
        (["--concept", "blot", "seeds=[1,1]"], "twice"),
        (["--images", "./nowhere", "--class-name", "mug"], "does not exist"),
        (["--concept", "blot", "personalizer.devices=2"], "for dreammatcher train alone"),
    ],
)
def test_bad_input_leaves_nothing(settings, tmp_path, capsys, words, message):
    output = tmp_path / "run"
    assert main(["demo", "--output", str(output), *settings, *words]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_another_configurations_folder_is_refused(settings, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 5\n")
    (tmp_path / "metrics.json").write_text("{}")
    assert main(["demo", "--concept", "blot", "--output", str(tmp_path), *settings]) == 2
    assert "another configuration" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").exists()


def test_compare_resumes_concept_by_concept(settings, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["compare", "--output", str(run), *settings, "seeds=[1]"]
    assert main([*words, "--concepts", "blot"]) == 0
    kept = (run / "concepts" / "blot" / "result.json").stat().st_mtime_ns
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    out = capsys.readouterr().out
    assert (run / "concepts" / "blot" / "result.json").stat().st_mtime_ns == kept
    results = json.loads((run / "results.json").read_text())
    assert sorted(results["concepts"]) == ["blot", "smear"]
    gap = results["mean"]["difference"]["identity"]
    assert gap["clusters"] == 2 and gap["low"] <= gap["mean"] <= gap["high"]
    assert isinstance(results["verdict"]["identity_above"], bool)
    assert "Identity similarity" in out and "Text similarity" in out
    assert "| smear |" in (run / "table.md").read_text()
    assert (run / "concepts" / "smear" / "images" / TREATED / "0-1.png").is_file()
    assert main([*words, "--resume", "seed=4"]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_another_judge_scores_the_kept_pictures(settings, world, tmp_path, monkeypatch):
    run = tmp_path / "run"
    words = ["compare", "--output", str(run), "--concepts", "blot", *settings, "seeds=[1]"]
    words += ["--resume", f"evaluation.identity={tmp_path / 'identity'}"]
    shutil.copytree(world / "identity", tmp_path / "identity")
    assert main(words) == 0
    folder = run / "concepts" / "blot"
    first = json.loads((folder / "result.json").read_text())
    picture = (folder / "images" / TREATED / "0-1.png").stat().st_mtime_ns
    (tmp_path / "identity" / "note.txt").write_text("another judge")
    monkeypatch.setattr("framework.experiments.two_pass.compare_arms", None)  # drawing would fail
    assert main(words) == 0
    second = json.loads((folder / "result.json").read_text())
    assert second["judge"] != first["judge"]
    assert second[TREATED] == first[TREATED]
    assert (folder / "images" / TREATED / "0-1.png").stat().st_mtime_ns == picture


def test_a_concept_is_finished_only_with_its_own_whole_result(settings, tmp_path):
    config = load_config(None, [*settings, "concept.name=blot", "seeds=[1]"])
    concept = load_concept(config)
    cell = {"index": 0, "prompt": "a {}", "seed": 1, "file": "0-1.png"}
    noted = {"identity": fingerprint(concept, config), "cells": [cell]}
    for arm in (BASELINE, TREATED):
        (tmp_path / "images" / arm).mkdir(parents=True)
        (tmp_path / "images" / arm / "0-1.png").write_bytes(b"")
    (tmp_path / "drawn.json").write_text(json.dumps(noted))
    result = tmp_path / "result.json"
    assert finished(tmp_path, concept, config, "me") is None
    for content in ('{"half', "[]", "{}", '{"identity": "other"}'):
        result.write_text(content)
        assert finished(tmp_path, concept, config, "me") is None
    whole = {"identity": fingerprint(concept, config), "judge": "me"}
    result.write_text(json.dumps(whole))
    assert finished(tmp_path, concept, config, "me") == whole
    assert finished(tmp_path, concept, config, "you") is None
    other = replace(concept, images=concept.images[:1])
    assert finished(tmp_path, other, config, "me") is None
    (tmp_path / "images" / TREATED / "0-1.png").unlink()
    assert finished(tmp_path, concept, config, "me") is None


def test_several_methods_in_one_table(settings, tmp_path, capsys):
    run = tmp_path / "run"
    quick = [item for item in settings if not item.startswith("personalizer.")]
    methods = ("textual_inversion", "dreambooth_lora")
    words = ["compare", "--output", str(run), *quick, "seeds=[1]", "concept.placeholder='<it>'"]
    words += ["personalizer.steps=1", "personalizer.batch_size=1"]
    words += ["--personalizers", ",".join(methods), "--concepts", "blot,smear"]
    config = {name: {} for name in methods} | {"dreambooth_lora": {"prior": False}}
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump({"personalizers": config}))
    assert main([*words, "--config", str(tmp_path / "methods.yaml")]) == 0
    results = json.loads((run / "results.json").read_text())["methods"]
    assert list(results) == list(methods)
    for found in results.values():
        assert found["mean"]["difference"]["identity"]["values"] == 2
        assert found["seconds"]["training_cpu"] > 0
    table = (run / "table.md").read_text()
    assert table.count("**DreamMatcher**") == 2
    assert "dreambooth_lora" in table
    assert (run / "dreambooth_lora" / "config.yaml").is_file()
    assert main([*words[:-2], "--personalizers", "dreamboot"]) == 2
    assert "Did you mean 'dreambooth" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bad",
    [
        ["--concepts", "blott"],
        ["--concepts", ","],
        ["--concepts", "blot,nothing"],
        ["personalizer.devices=2"],
    ],
)
def test_compare_refuses(settings, tmp_path, bad):
    words = ["compare", "--output", str(tmp_path / "run"), *settings, *bad]
    assert main(words) == 2
    assert not (tmp_path / "run").exists()
