"""Training of the matching head: its losses, its data, its command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize

from framework.cli.main import main
from framework.matchbench.learn import new_head
from framework.matchbench.lessons import Lesson, coarser
from framework.matchbench.losses import lesson_losses, matching_loss, sample_at, to_cells
from framework.matchbench.pairs import Target


def test_sampling_between_cells():
    grid = torch.arange(6.0).view(2, 3, 1)
    where = torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.5, 0.0], [1.0, 0.5]])
    assert sample_at(grid, where)[:, 0].tolist() == pytest.approx([0.0, 5.0, 0.5, 2.5])


def test_pixels_to_cells():
    grid = torch.zeros(1, 4, 8, 2)
    cells = to_cells(torch.tensor([[0.5, 0.5], [15.0, 7.0]]), grid, (8, 16))
    assert cells.tolist() == [[0.0, 0.0], [7.25, 3.25]]


def test_the_loss_is_least_at_the_truth():
    head = new_head(16, 16, 0, 0)
    head.sharpness.data.fill_(3.0)
    one = torch.eye(16).view(4, 4, 16)
    here = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    right = matching_loss(head, one, one, here, here)
    wrong = matching_loss(head, one, one, here, here + torch.tensor([1.0, 0.0]))
    assert right < wrong


def lesson(depth=16):
    generator = torch.Generator().manual_seed(0)
    grid = normalize(torch.randn(1, 8, 8, depth, generator=generator), dim=-1)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    points = torch.stack([columns, rows], dim=-1).flatten(0, 1) * 4 + 1
    visible = torch.ones(64, dtype=torch.bool)
    visible[:9] = False
    target = Target(torch.zeros(1, 3, 32, 32), "", points, points, visible, 32.0, "a", "b")
    return Lesson(grid, grid, (target,))


def test_a_head_learns_from_one_lesson():
    """Descriptors that are all but noise: the head finds what tells cells apart, and trusts it."""
    torch.manual_seed(0)
    head = new_head(16, 8, 1, 0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    first = None
    for _ in range(60):
        found, trust, right = lesson_losses(head, lesson(), (32, 32))
        first = first or (found.item(), trust.item())
        optimizer.zero_grad()
        (found + trust).backward()
        optimizer.step()
    assert found < 0.8 * first[0] and trust < 0.7 * first[1]
    assert right == 1


def test_lessons_on_a_coarser_grid():
    half = coarser(lesson())
    assert half.target.shape == (1, 4, 4, 16)
    torch.testing.assert_close(half.target.norm(dim=-1), torch.ones(1, 4, 4))


def test_lessons_without_visible_points_are_survived():
    known = lesson()
    (target,) = known.targets
    hidden = Target(
        target.image, "", target.points, target.truth, ~target.visible & False, 32.0, "a", "b"
    )
    head = new_head(16, 8, 1, 0)
    found, trust, right = lesson_losses(head, Lesson(*[known.target] * 2, (hidden,)), (32, 32))
    assert found == 0 and trust > 0 and right == 0
    (found + trust).backward()


@pytest.fixture
def words(sd1, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sd1.save_pretrained("model")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "0.png")
    options = ["model.path=model", "sampler.num_inference_steps=3", "extractor.pca=null"]
    return ["train-matcher", "--dim", "8", "--blocks", "1", *options, "mask.resolution=4"]


def test_the_command_trains_goes_on_and_its_weights_are_used(words, capsys, tmp_path):
    words += ["--config", "models/sd1", "trajectory=forward_noise"]
    words += ["--images", "photos", "--updates", "3", "--output", "out"]
    assert main(words) == 0
    weights = load_file("out/head.safetensors")
    assert weights["project.weight"].shape[0] == 8
    (tmp_path / "out" / "head.safetensors").unlink()
    assert main(words) == 0  # finished: written again, not trained again
    again = load_file("out/head.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert main([*words, "--seed", "1"]) == 2
    assert "another training" in capsys.readouterr().err

    bench = ["match-bench", "--config", "models/sd1", *[w for w in words if "=" in w]]
    bench += ["--pairs", "1", "--steps", "1", "--output", "bench"]
    bench += ["--matcher", "learned weights=out/head.safetensors"]
    assert main([*bench, "--extractor", "diffusion", "--extractor", "diffusion pca=8"]) == 0
    shown = capsys.readouterr()
    assert "left out: diffusion pca=8 with learned" in shown.out.replace("\n", " ")
    found = json.loads((tmp_path / "bench" / "results.json").read_text())
    (row,) = found["rows"]
    assert row["extractor"] == "diffusion" and 0 <= row["confidence"] <= 1
    assert "pca 8 instead of null" in found["left_out"][0]["why"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["extractor.pca=8"], "axes change from pair to pair"),
        (["--updates", "0"], "--updates is 0"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--images", "missing"], "does not exist"),
    ],
)
def test_bad_input(words, more, message, capsys, tmp_path):
    assert main([*words, *more, "--output", "out"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
