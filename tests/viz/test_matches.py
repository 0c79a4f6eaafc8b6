from dataclasses import replace

import numpy as np
import torch
from matplotlib.patches import ConnectionPatch
from PIL import Image
from tiny_encoders import flat

from framework.viz.matches import (
    Match,
    draw_matches,
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


def test_what_was_drawn_without_matching_and_the_reference_s_mask_are_shown_if_known():
    whole = replace(
        match(torch.zeros(4, 4, 2)), baseline=flat((5, 5, 5)), reference_mask=torch.ones(4, 4)
    )
    titles = [axis.get_title() for axis in draw_matches([whole], "t").axes]
    assert "baseline, same noise" in titles and "mask of the reference" in titles
    titles = [axis.get_title() for axis in draw_matches([match(torch.zeros(4, 4, 2))], "t").axes]
    assert "baseline, same noise" not in titles and "mask of the reference" not in titles


def test_what_is_not_used_is_faint_and_that_is_explained():
    mask = torch.zeros(4, 4)
    mask[1:3, 1:3] = 1.0
    flow = torch.full((4, 4, 2), 3.0)
    figure = draw_matches([replace(match(flow), mask=mask)], "t")
    (axis,) = (a for a in figure.axes if a.get_title() == "flow to the reference")
    shown = axis.images[0].get_array()
    assert shown[0, 0].min() > 225 > shown[192, 192].min()
    assert any("not taken from the reference" in text.get_text() for text in figure.texts)


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
