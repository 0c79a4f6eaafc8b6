"""``dreammatcher inspect``: which steps it shows, and the pages it writes."""

from __future__ import annotations

import pytest
from PIL import Image
from tiny import tiny_concept

from framework.cli.inspect import choose
from framework.cli.main import main
from framework.errors import UserError

MATCHED = list(range(4, 20))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1", [19]),
        ("2", [4, 19]),
        ("4", [4, 9, 14, 19]),
        ("99", MATCHED),
        ("all", MATCHED),
        ("7,5", [5, 7]),
        ("7,", [7]),
    ],
)
def test_chooses_matched_steps(text, steps):
    assert choose(text, MATCHED) == steps


@pytest.mark.parametrize("text", ["", ",", "few", "0", "-1", "3,5", "5,20"])
def test_refuses_other_steps(text):
    with pytest.raises(UserError, match="--steps"):
        choose(text, MATCHED)


def test_nothing_matched_is_said():
    with pytest.raises(UserError, match="No step is matched"):
        choose("all", [])


def test_writes_a_page_a_step(sd1, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sd1.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    tiny_concept().images[0].save(tmp_path / "photos" / "0.png")
    options = ["model.path=model", "concept.path=photos", "concept.class_name=dog"]
    options += ['concept.placeholder=""', "mask.resolution=4", "injector.start_step=1"]
    options += ["sampler.num_inference_steps=3", "sampler.scheduler=DDIMScheduler"]
    words = ["inspect", "--config", "models/sd1", "--prompt", "a {}", "--steps", "all"]
    assert main([*words, "--output", "out", *options]) == 0
    pages = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert pages == ["image.png", "step-001.png", "step-002.png"]
    for name in pages:
        with Image.open(tmp_path / "out" / name) as picture:
            picture.verify()
    assert "step-001.png" in capsys.readouterr().out
