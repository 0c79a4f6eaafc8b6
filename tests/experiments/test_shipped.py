"""Every shipped plan can be read, and is as large as its set says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from framework.cli.main import main
from framework.config.page import load_config
from framework.config.resources import shipped_configs
from framework.experiments.plan import load_plan

PLANS = [name for name in shipped_configs() if name.startswith("ablations/")]
SETS = {"ablations/vico": 31, "ablations/challenging": 24}
BARN = "pedro-lastra-hXunh-ivkPc-unsplash.jpg"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [name for name in PLANS if name not in SETS])
def test_it_can_be_read(name):
    plan = load_plan(name, ["concepts=[taxi_car]"])
    assert plan.description and plan.baseline in [each.name for each in plan.variants]
    assert len(plan.variants) > 1


@pytest.mark.parametrize("name", SETS)
def test_the_sets_have_their_published_size(name, tmp_path):
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    listed = re.findall(r"^  (\S+): \{class_name: .*, reference: (\S+)\}$", text, re.MULTILINE)
    assert len(listed) == 16
    for concept, reference in listed:
        (tmp_path / concept).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / concept / reference)
    plan = load_plan(name, [f"concept.library={tmp_path}"])
    assert len(plan.cells) == len(plan.variants) * 16 * SETS[name] * 8
    dog = next(s for s in plan.settings if s.concept == "brown_dog")
    assert dog.config.model.path == "checkpoints/brown_dog" and dog.subject.phrase == "sks dog"
    assert not plan.learn


def test_the_plan_of_matchings_has_the_presets_settings():
    plan = load_plan("ablations/matching", ["concepts=[taxi_car]"])
    for setting in plan.settings:
        if setting.variant in ("learned", "better matching"):
            preset = "learned" if setting.variant == "learned" else "better_matching"
            expected = load_config(["default", f"presets/{preset}"])
            for part in ("extractor", "matcher", "injector", "mask"):
                assert getattr(setting.config, part) == getattr(expected, part), (preset, part)


@pytest.mark.slow
def test_a_set_is_drawn_from_folders_as_users_have_them(world, tmp_path, capsys):
    """Some concepts and one prompt, on a tiny checkpoint of the real classes."""
    for concept, reference in (("brown_dog", "03.jpg"), ("barn", BARN)):
        (tmp_path / "data" / concept).mkdir(parents=True)
        for file, colour in (("00.jpg", "red"), (reference, "blue")):
            Image.new("RGB", (90, 60), colour).save(tmp_path / "data" / concept / file)
    words = [f"concept.library={tmp_path / 'data'}", f"model.path={world / 'sd'}"]
    words += ["concepts=barn,brown_dog", 'prompts=["a photo of a {}"]', "seeds=[0]"]
    words += ["sampler.num_inference_steps=6", "mask.resolution=4", "extractor.pca=8"]
    words += [f"evaluation.{key}={world / key}" for key in ("clip", "identity")]
    words += ["run.devices=1", "--output", str(tmp_path / "run")]
    assert main(["ablate", "vico", *words]) == 0
    assert "4 picture(s) drawn" in capsys.readouterr().out
    notes = [json.loads(path.read_text()) for path in (tmp_path / "run/images").rglob("*.json")]
    assert {(note["concept"], note["reference_index"]) for note in notes} == {
        ("barn", 1),
        ("brown_dog", 1),
    }
    tables = {path.parent.name for path in (tmp_path / "run" / "results").rglob("table.tex")}
    assert tables == {"corrected", "official"}
