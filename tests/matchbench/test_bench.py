"""``dreammatcher match-bench`` on a tiny checkpoint of the real Stable Diffusion 1.x classes."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image

from framework.cli.main import main
from framework.config.page import load_config
from framework.errors import UserError
from framework.matchbench.field import choose_steps, entries
from framework.matchbench.memory import peak_memory

sys.path.insert(0, __file__.rpartition("/")[0])
from test_sources import make_spair, smooth


@pytest.fixture(scope="module")
def model(sd1, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "model"
    sd1.save_pretrained(folder)
    return folder


@pytest.fixture
def words(model, tmp_path, monkeypatch):
    """A benchmark of one reference and two steps, into the current folder."""
    monkeypatch.chdir(tmp_path)
    options = ["sampler.num_inference_steps=3", "mask.resolution=4", f"model.path={model}"]
    return ["match-bench", "--config", "models/sd1", *options, "--steps", "2", "--output", "out"]


def results():
    with open("out/results.json") as file:  # noqa: PTH123
        return json.load(file)


def test_renders(words, capsys):
    words += ["--matcher", "cycle_argmax,oracle", "--pairs", "2"]
    words += ["--matcher", "cycle_argmax cycle_threshold=0.9"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "2 pairs (renders), 2 of 3 sampling steps" in shown
    found = results()
    rows = {row["matcher"]: row for row in found["rows"]}
    ours, oracle = rows["cycle_argmax"], rows["oracle"]
    other = rows["cycle_argmax cycle_threshold=0.9"]
    assert ours["extractor"] == other["extractor"] == "diffusion"
    assert oracle["extractor"] == "(none)"
    assert oracle["pck@0.05"] == 1 and oracle["epe"] == oracle["ause"] == 0
    assert oracle["occlusion_ap"] == 1
    assert ours["pck@0.05"] == other["pck@0.05"] < 0.5
    assert ours["confidence"] < other["confidence"]
    assert ours["memory"] > 0 and ours["extract_ms"] > 0 and ours["match_ms"] > 0
    assert [point["step"] for point in ours["by_step"]] == [0, 2]
    assert list(ours["by_difference"]) == ["0-30°", "30-60°"]
    assert list(ours["by_category"]) == ["mug"]
    assert found["about"]["pairs" if "pairs" in found["about"] else "source"]
    picture = Image.open("out/pck_over_time.png")
    assert min(picture.size) > 300
    with open("out/table.md") as file:  # noqa: PTH123
        assert "| (none) | oracle | 1.000 |" in file.read()

    # The same command finds everything done; another one is refused.
    before = results()["rows"]
    assert main([*words, "--quiet"]) == 0
    assert results()["rows"] == before
    assert main([*words, "--seed", "1"]) == 2
    assert "holds the benchmark of another configuration: seed differ" in capsys.readouterr().err


def test_pictures(words, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    smooth(60, 80).save(tmp_path / "photos" / "0.png")
    words += ["--images", "photos", "--class-name", "dog", "--steps", "1"]
    assert main(words) == 0
    (row,) = results()["rows"]
    assert row["pairs"] == 2
    assert list(row["by_difference"]) == ["homography", "thin-plate spline"]
    assert list(row["by_category"]) == ["photos"]
    assert row["occluded"] > 0


def test_spair(words, tmp_path):
    make_spair(tmp_path / "spair")
    assert main([*words, "--spair", "spair", "--matcher", "cycle_argmax"]) == 0
    (row,) = results()["rows"]
    assert list(row["by_category"]) == ["cat", "dog"]
    assert row["occlusion_ap"] is None and row["pck@0.15"] is not None
    assert list(row["by_difference"]) == ["viewpoint 0", "viewpoint 1"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--matcher", "cycle_argmx"], "Did you mean 'cycle_argmax'?"),
        (["--extractor", "difusion"], "Did you mean 'diffusion'?"),
        (["--matcher", "cycle_argmax,cycle_argmax"], "names 'cycle_argmax' twice"),
        (["--matcher", "cycle_argmax cycle_threshold"], "expected key=value"),
        (["--matcher", "cycle_argmax cycle_treshold=1"], "cycle_threshold"),
        (["--matcher", "cycle_argmax,oracle a=1"], "options to several names"),
        (["--steps", "9,1"], "indices from 0 to 2"),
        (["--steps", "none"], "expected 'all'"),
        (["--pairs", "0"], "--pairs is 0"),
        (["--images", "a", "--spair", "b"], "at most one"),
        (["--class-name", "dog"], "without --images"),
        (["--images", "missing"], "does not exist"),
        (["--spair", "missing"], "does not exist"),
        (["sampler.height=64"], "square"),
    ],
)
def test_bad_input(words, more, message, capsys, tmp_path):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_refused(words, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main([*words, "--pairs", "1"]) == 2
    assert "is not empty and holds no benchmark" in capsys.readouterr().err


def test_every_registered_part_may_be_named_at_once():
    labels = [entry.label for entry in entries(load_config(), "matcher", ["all"])]
    assert {"cycle_argmax", "oracle", "soft_argmax"} <= set(labels)
    ours = entries(load_config(None, ["matcher.cycle_threshold=0.2"]), "matcher", ["cycle_argmax"])
    assert ours[0].section["cycle_threshold"] == 0.2


def test_steps():
    assert choose_steps("all", 5) == [0, 1, 2, 3, 4]
    assert choose_steps("3", 25) == [0, 12, 24]
    assert choose_steps("1", 25) == [12]
    assert choose_steps("99", 4) == [0, 1, 2, 3]
    assert choose_steps("4,0,4", 5) == [0, 4]
    for wrong in ("0", "-1", "5,", "0,5", "some"):
        with pytest.raises(UserError, match="--steps"):
            choose_steps(wrong, 5)


def test_peak_memory_counts_what_lives_at_the_same_time():
    start = torch.zeros(1000)

    def call():
        one = start + 1
        two = one * 2
        del one
        view = two[:10]
        del two
        return view + (start - 1)[:10]

    assert peak_memory(call, start.device) == 8000 + 40
    assert peak_memory(lambda: start.add_(1), start.device) == 0
    assert peak_memory(lambda: start.view(10, 100), start.device) == 0
