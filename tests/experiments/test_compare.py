import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_encoders import flat

from framework.cli.main import main
from framework.concepts.folders import load_concept
from framework.config.page import load_config
from framework.experiments.arms import BASELINE, TREATED
from framework.training.personalize import NOTE, learn

WORDS = ['prompts=["a photo of a {} on the grass"]', "seeds=[0,1]"]


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
        assert sorted(p.name for p in (run / "images" / arm).glob("*.png")) == [
            "0-0.png",
            "0-1.png",
        ]
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
    first = run / "images" / TREATED / "0-0.png"
    content, drawn = first.read_bytes(), (run / "images" / TREATED / "0-1.png").stat().st_mtime_ns
    first.unlink()
    assert main(words) == 0
    assert json.loads((run / "metrics.json").read_text())["seconds"]["training_reused"] is True
    assert first.read_bytes() == content
    assert (run / "images" / TREATED / "0-1.png").stat().st_mtime_ns == drawn


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


def test_compare_resumes_concept_by_concept(settings, tmp_path, capsys, monkeypatch):
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
    monkeypatch.chdir(tmp_path)  # without --output another configuration gets its own folder
    for seed in ("4", "5"):
        words = ["compare", *settings, "--concepts", "blot", f"seed={seed}", "run.devices=1"]
        assert main(words) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["compare", "compare-2"]


def test_another_judge_scores_the_kept_pictures(settings, world, tmp_path, monkeypatch):
    run = tmp_path / "run"
    words = ["compare", "--output", str(run), "--concepts", "blot", *settings, "seeds=[1]"]
    words += ["--resume", f"evaluation.identity={tmp_path / 'identity'}"]
    shutil.copytree(world / "identity", tmp_path / "identity")
    assert main(words) == 0
    folder = run / "concepts" / "blot"
    first = json.loads((folder / "result.json").read_text())
    picture = (folder / "images" / TREATED / "0-1.png").stat().st_mtime_ns
    weights = tmp_path / "identity" / "model.safetensors"
    changed = {name: tensor + 0.05 for name, tensor in load_file(weights).items()}
    save_file(changed, weights)
    monkeypatch.setattr("framework.experiments.draw.Artist.draw", None)  # drawing would fail
    assert main(words) == 0
    second = json.loads((folder / "result.json").read_text())
    assert second[TREATED]["identity"] != first[TREATED]["identity"]
    assert second[TREATED]["clip_text"] == first[TREATED]["clip_text"]
    assert (folder / "images" / TREATED / "0-1.png").stat().st_mtime_ns == picture


def test_compare_and_ablate_draw_the_same_bytes_and_find_the_same_numbers(settings, tmp_path):
    words = [*settings, "seeds=[1]", "sampler.batch_size=3"]
    assert main(["compare", "--output", str(tmp_path / "compare"), *words]) == 0
    config = dict(word.split("=", 1) for word in settings if not word.startswith("prompts"))
    config.pop("seeds")
    plan = {
        "config": {key: yaml.safe_load(value) for key, value in config.items()}
        | {"sampler.batch_size": 3},
        "variants": {"ours": {}, "plain": {"injector": "none", "guidance": "none"}},
        "baseline": "plain",
        "prompts": ["a photo of a {} on the grass"],
        "seeds": [1],
        "protocols": ["corrected"],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["ablate", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "ablate")]) == 0
    results = json.loads((tmp_path / "compare" / "results.json").read_text())
    for arm, variant in ((BASELINE, "plain"), (TREATED, "ours")):
        for concept in ("blot", "smear"):
            mine = tmp_path / "compare" / "concepts" / concept / "images" / arm / "0-1.png"
            other = tmp_path / "ablate" / "images" / variant / concept / "000-1.png"
            assert mine.read_bytes() == other.read_bytes()
    with (tmp_path / "ablate" / "results" / "corrected" / "table.csv").open() as file:
        table = {(row["variant"], row["score"]): row for row in csv.DictReader(file)}
    for name in ("identity", "clip_image", "clip_text"):
        mean = results["mean"][TREATED][name]["mean"]
        assert mean == float(table["ours", name]["mean"])
        gap = results["mean"]["difference"][name]["mean"]
        assert gap == float(table["ours", name]["difference"])


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
    assert (run / "dreambooth_lora" / "concepts" / "blot" / "result.json").is_file()
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


def test_the_demo_with_another_matcher_takes_the_next_folder(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = "from matchers.cycle_argmax import CycleArgmax\n\n\nclass Own(CycleArgmax):\n    pass\n"
    (tmp_path / "own_matcher.py").write_text(own)
    words = ["demo", "--concept", "blot", *settings, "concept.placeholder=''", "seeds=[0]"]
    assert main(words) == 0
    for _ in range(2):
        assert main([*words, "matcher=own_matcher:Own"]) == 0
    runs = tmp_path / "runs" / "demo"
    assert sorted(path.name for path in runs.iterdir()) == ["blot", "blot-2"]
    pictures = [run / "images" / BASELINE / "0-0.png" for run in (runs / "blot", runs / "blot-2")]
    first, second = (np.asarray(Image.open(path)) for path in pictures)
    assert (first == second).all()
