"""``dreammatcher evaluate`` on folders of pictures that no ablation wrote."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from framework.cli.main import main


@pytest.fixture(scope="module")
def pictures(world, tmp_path_factory):
    """Two methods, two prompts, two seeds; the second method pasted the concept's own picture."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    (folder / "drawn").mkdir()
    (folder / "pasted").mkdir()
    for name in ("000-0", "000-1", "001-0", "001-1"):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "drawn" / f"{name}.png")
        shutil.copy(world / "library/blot/0.png", folder / "pasted" / f"{name}.png")
    return folder


@pytest.fixture
def words(world, pictures, tmp_path):
    """The command, its results beside the pictures' folder."""
    encoders = [f"evaluation.{key}={world / key}" for key in ("clip", "identity")]
    return [
        "evaluate",
        str(pictures),
        "--references",
        str(world / "library" / "blot"),
        "--output",
        str(tmp_path / "out"),
        *encoders,
    ]


def rows(folder, protocol="corrected"):
    with (folder / "out" / "scores" / f"{protocol}.csv").open() as file:
        return list(csv.DictReader(file))


def test_subfolders_are_variants_and_names_are_pairs(words, tmp_path, capsys):
    assert main([*words, "--baseline", "pasted"]) == 0
    told = rows(tmp_path)
    assert [row["file"] for row in told[:2]] == ["drawn/000-0.png", "drawn/000-1.png"]
    assert {row["clip_text"] for row in told if "clip_text" in row} <= {""}
    drawn, pasted = told[:4], told[4:]
    assert all(float(row["copy_paste"]) > 0.99 for row in pasted)
    assert all(float(row["copy_paste"]) < 0.9 for row in drawn)
    assert all(abs(float(row["diversity"])) < 1e-5 < float(told[0]["diversity"]) for row in pasted)
    with (tmp_path / "out/results/corrected/table.csv").open() as file:
        table = {(row["variant"], row["score"]): row for row in csv.DictReader(file)}
    gap = table["drawn", "identity"]["difference"]
    means = [np.mean([float(row["identity"]) for row in part]) for part in (drawn, pasted)]
    assert float(gap) == pytest.approx(means[0] - means[1], abs=1e-6)
    assert table["pasted", "identity"]["difference"] == ""
    assert "pasted" in capsys.readouterr().out


def test_prompts_from_lines_from_a_table_and_from_a_sample_run(words, pictures, tmp_path):
    (tmp_path / "lines.txt").write_text("a photo of a {}\na {} in snow\n")
    assert main([*words, "--prompts", str(tmp_path / "lines.txt"), "--protocol", "official"]) == 0
    by_line = rows(tmp_path, "official")
    assert [row["prompt"] for row in by_line[:3]] == ["a photo of a {}"] * 2 + ["a {} in snow"]
    files = [row["file"] for row in by_line]
    table = "file,prompt\n" + "".join(f"{row['file']},{row['prompt']}\n" for row in by_line)
    (tmp_path / "table.csv").write_text(table)
    assert main([*words, "--prompts", str(tmp_path / "table.csv"), "--protocol", "official"]) == 0
    assert rows(tmp_path, "official") == by_line
    told = [{"prompt": "a {}", "images": {"0": name.split("/")[1]}} for name in files[:1]]
    (pictures / "prompts.json").write_text(json.dumps(told))
    assert main(words) == 0
    (pictures / "prompts.json").unlink()
    assert [row["prompt"] for row in rows(tmp_path)[:2]] == ["a {}", "000-1"]
    assert rows(tmp_path)[0]["clip_text"] and not rows(tmp_path)[1]["clip_text"]


def test_pictures_without_subfolders(words, pictures, tmp_path):
    words[1] = str(pictures / "drawn")
    assert main([*words, "--class-name", "cup"]) == 0
    assert {row["variant"] for row in rows(tmp_path)} == {"images"}


def test_several_concepts_by_the_names_of_folders(words, pictures, world, tmp_path, capsys):
    """METHOD/CONCEPT/*.png against LIBRARY/CONCEPT/*: each against its own, intervals over both."""
    for method, shift in (("own", 0), ("swapped", 1)):
        for place, name in enumerate(("blot", "smear")):
            source = ("blot", "smear")[(place + shift) % 2]
            (tmp_path / "many" / method / name).mkdir(parents=True)
            target = tmp_path / "many" / method / name / "000-0.png"
            shutil.copy(world / "library" / source / "0.png", target)
    words[1], words[3] = str(tmp_path / "many"), str(world / "library")
    assert main(words) == 0
    found = {(row["variant"], row["concept"]): float(row["copy_paste"]) for row in rows(tmp_path)}
    assert len(found) == 4
    assert all((value > 0.99) == (method == "own") for (method, _), value in found.items())
    with (tmp_path / "out/results/corrected/table.csv").open() as file:
        assert {row["concepts"] for row in csv.DictReader(file)} == {"2"}
    shutil.copytree(pictures / "drawn", tmp_path / "many" / "stray")
    assert main(words) == 2
    assert "'stray/000-0.png' lies in no folder called like a concept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--baseline", "drwan"], "Did you mean 'drawn'"),
        (["--prompts", "nowhere.txt"], "cannot be read"),
        (["--prompts", "short.txt"], "no prompt for 8 of 8 pictures, 'drawn/000-0.png' for one"),
        (["--prompts", "short.csv"], "columns file and prompt"),
        (["--protocol", "oficial"], "Did you mean 'official'"),
        (["seed=3"], "does not change the scoring"),
        (["evaluation.identity=./nowhere"], "nowhere' does not exist"),
        (["--references", "nowhere"], "does not exist"),
        (["--references", "."], "has no image"),
    ],
)
def test_what_is_refused(words, more, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("")
    (tmp_path / "short.csv").write_text("name,text\nx,y\n")
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_and_missing_pictures_are_named(words, pictures, tmp_path, capsys):
    (tmp_path / "some").mkdir()
    words[1] = str(tmp_path / "some")
    assert main(words) == 2
    assert "has no picture" in capsys.readouterr().err
    whole = (pictures / "drawn" / "000-0.png").read_bytes()
    (tmp_path / "some" / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert main(words) == 2
    assert "some/cut.png' is a damaged image" in capsys.readouterr().err
