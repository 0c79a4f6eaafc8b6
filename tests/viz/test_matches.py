import numpy as np
import pytest
import torch
from matplotlib.patches import ConnectionPatch
from PIL import Image
from tiny_encoders import flat

from framework.types import Masks, StepTrace
from framework.viz.matches import (
    Match,
    draw_matches,
    last_matched,
    matches_of,
    sized_reference,
    warped_reference,
)
from framework.viz.points import spread_points

SIDE = 64


def checkered():
    ys, xs = np.mgrid[:SIDE, :SIDE]
    array = np.stack([xs * 4, ys * 4, (xs // 8 + ys // 8) % 2 * 255], axis=-1)
    return Image.fromarray(array.astype(np.uint8))


def match(flow, confidence=1.0, mask=1.0):
    grid = flow.shape[:2]
    return Match(
        "a photo", checkered(), flat((9, 9, 9)), flow, torch.full(grid, confidence),
        torch.full(grid, mask),
    )  # fmt: skip


def test_zero_flow_shows_the_reference():
    found = np.asarray(warped_reference(match(torch.zeros(8, 8, 2)), SIDE), dtype=int)
    assert np.abs(found - np.asarray(checkered(), dtype=int)).max() <= 1


def test_a_known_shift_moves_whole_cells():
    flow = torch.zeros(8, 8, 2)
    flow[..., 0] = 2.0  # each cell shows the one two to its right
    found = np.asarray(warped_reference(match(flow), SIDE), dtype=int)
    expected = np.asarray(checkered(), dtype=int)
    assert np.abs(found[:, : SIDE - 16] - expected[:, 16:]).max() <= 1


def test_what_is_not_used_fades():
    found = np.asarray(warped_reference(match(torch.zeros(4, 4, 2), confidence=0.0), SIDE))
    assert found.min() == found.max() == 237


def test_points_cover_the_foreground_and_nothing_else():
    mask = torch.zeros(16, 16)
    mask[4:12, 2:8] = 1.0
    points = spread_points(mask, 12)
    assert len(set(points)) == 12 and points == spread_points(mask, 12)
    assert all(mask[y, x] > 0 for x, y in points)
    assert points[:2] == [(2, 4), (7, 11)]
    assert len(spread_points(mask, 1000)) == 48
    assert spread_points(torch.zeros(4, 4), 5) == []


def step(index, count=2, matched=True):
    values = torch.arange(2 * count, dtype=torch.float32)
    grid = values[:, None, None].expand(-1, 4, 4) / 10
    return StepTrace(
        index,
        10 - index,
        target_clean=torch.zeros(count, 4, 8, 8),
        latents=torch.zeros(count, 4, 8, 8),
        matched=matched,
        flow=values[:, None, None, None].expand(-1, 4, 4, 2) if matched else None,
        confidence=grid if matched else None,
        masks=Masks(target=grid, reference=grid) if matched else None,
    )


def test_the_last_matched_step_and_its_conditional_half_are_shown():
    trace = [step(0, matched=False), step(1), step(2), step(3, matched=False)]
    assert last_matched(trace).step == 2
    found = matches_of(trace, checkered(), [flat((1, 1, 1))] * 2, ["p", "q"])
    assert [m.caption for m in found] == ["p", "q"]
    assert [float(m.flow[0, 0, 0]) for m in found] == [2.0, 3.0]
    assert float(found[1].weight[0, 0]) == pytest.approx(0.09)
    assert matches_of(trace[:1], checkered(), [flat((1, 1, 1))] * 2, ["p", "q"]) == []


def test_the_figure_has_a_line_for_each_point_and_is_not_pyplots(tmp_path):
    import matplotlib.pyplot as plt

    flow = torch.zeros(8, 8, 2)
    figure = draw_matches([match(flow), match(flow + 1)], "title", lines=5)
    lines = figure.findobj(ConnectionPatch)
    assert len(lines) == 10
    figure.savefig(tmp_path / "matches.png")
    with Image.open(tmp_path / "matches.png") as image:
        assert image.width > 1500
    assert plt.get_fignums() == []


def test_nothing_matched_is_said(tmp_path):
    figure = draw_matches([], "title")
    figure.savefig(tmp_path / "matches.png")
    assert any("No step was matched" in text.get_text() for text in figure.texts)


def test_unused_matches_still_draw(tmp_path):
    draw_matches([match(torch.zeros(4, 4, 2), 0.0, 0.0)], "t").savefig(tmp_path / "m.png")


def test_the_reference_is_sized_as_the_sampler_does():
    assert sized_reference(checkered(), (32, 48), "crop").size == (32, 48)
    same = sized_reference(checkered(), (SIDE, SIDE), "stretch")
    assert np.abs(np.asarray(same, int) - np.asarray(checkered(), int)).max() <= 1
