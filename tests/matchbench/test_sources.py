"""Where pairs come from: renders, warps of pictures, SPair-71k; and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from framework.errors import UserError
from framework.geometry import warp
from framework.matchbench.folder import WarpedPictures
from framework.matchbench.pairs import truth_on_grid
from framework.matchbench.spair import SPairPairs
from framework.matchbench.warps import (
    WARPS,
    cell_centres,
    inside,
    map_pixels,
    warp_picture,
)
from framework.matchbench.world import VIEWS, WorldPairs, view_angle


def smooth(height=48, width=64):
    rows, columns = np.mgrid[0:height, 0:width] / 9.0
    channels = [np.sin(columns + 1), np.cos(rows * 1.3), np.sin(rows + columns)]
    return Image.fromarray(np.stack([np.uint8(127 + 100 * c) for c in channels], axis=-1))


# ---------------------------------------------------------------- renders


@pytest.fixture(scope="module")
def world():
    return WorldPairs(groups=2, targets=4, size=64, cells=16)


def test_renders_show_one_object_elsewhere_and_from_elsewhere(world):
    group = world[0]
    assert group.image.shape == (1, 3, 64, 64) and group.class_name in group.prompt
    assert [target.difference for target in group.targets] == [f"{a}-{b}°" for a, b in VIEWS]
    for target in group.targets:
        assert target.category == group.class_name and target.category in target.prompt
        assert target.prompt.rpartition(", ")[2] != group.prompt.rpartition(", ")[2]
        assert len(target.points) == len(target.truth) == len(target.visible) > 0
        assert torch.isfinite(target.truth).all() and target.visible.any()
        assert 0 < target.box <= 64


def test_visible_points_look_alike(world):
    """Where a truth says that two pixels show one point, they have similar colours."""
    target = world[0].targets[0]
    seen = target.visible

    def colours(image, points):
        x, y = points.round().long().clamp(0, 63).unbind(-1)
        return image[0, :, y, x].T

    mine = colours(target.image, target.points[seen])
    theirs = colours(world[0].image, target.truth[seen])
    mixed = theirs[torch.randperm(len(theirs), generator=torch.Generator().manual_seed(0))]
    assert (mine - theirs).abs().mean() < 0.7 * (mine - mixed).abs().mean()


def test_renders_depend_on_seed_and_index_alone(world):
    again = WorldPairs(groups=9, targets=4, size=64, cells=16)
    assert torch.equal(again[1].image, world[1].image)
    assert torch.equal(again[1].targets[2].truth, world[1].targets[2].truth)
    assert not torch.equal(WorldPairs(1, 1, 1, 64, 16)[0].image, world[0].image)


def test_the_world_needs_whole_cells():
    with pytest.raises(UserError, match="no multiple of the 30 cells"):
        WorldPairs(1, size=64, cells=30)


def test_view_angles():
    assert view_angle((0, 20), (0, 20)) == pytest.approx(0, abs=1e-4)
    assert view_angle((0, 0), (90, 0)) == pytest.approx(90)
    assert view_angle((170, 0), (-170, 0)) == pytest.approx(20)
    assert view_angle((0, 10), (180, 10)) == pytest.approx(160)


def test_truth_on_the_grid_leads_to_the_truth(world):
    target = world[0].targets[1]
    known = truth_on_grid(target, (16, 16))
    assert known.flow.shape == (1, 16, 16, 2) and known.confidence.shape == (1, 16, 16)
    assert int(known.confidence.sum()) == int(target.visible.sum())
    column, row = (target.points // 4).long().unbind(-1)
    moved = target.points + 4 * known.flow[0, row, column]
    torch.testing.assert_close(moved, target.truth, atol=1e-3, rtol=0)


# ---------------------------------------------------------------- warps


@pytest.mark.parametrize("kind", WARPS)
def test_a_warped_picture_shows_what_its_flow_says(kind):
    """Warping the original back by the known flow gives the warped picture."""
    array = torch.from_numpy(np.array(smooth(40, 56))).permute(2, 0, 1)[None].float()
    make, strength = WARPS[kind]
    where = make(torch.Generator().manual_seed(3), strength)
    picture = warp_picture(array, where)
    points = cell_centres((40, 56), (40, 56))
    truth = map_pixels(points, where, (40, 56))
    flow = (truth - points).view(1, 40, 56, 2)
    seen = inside(truth, (40, 56)).view(40, 56)
    again = warp(array, flow)
    assert 0.3 < seen.float().mean() < 1
    inner = seen & (truth.view(40, 56, 2) >= 0).all(-1)
    inner &= (truth.view(40, 56, 2) <= torch.tensor([55.0, 39.0])).all(-1)
    torch.testing.assert_close(again[0, :, inner], picture[0, :, inner], atol=0.05, rtol=0)
    assert flow.norm(dim=-1).max() > 2


@pytest.mark.parametrize("kind", WARPS)
def test_no_strength_is_no_warp(kind):
    where = WARPS[kind][0](torch.Generator(), 0.0)
    points = cell_centres((24, 24), (6, 6))
    torch.testing.assert_close(map_pixels(points, where, (24, 24)), points, atol=1e-3, rtol=0)


def test_cell_centres():
    centres = cell_centres((8, 4), (2, 2))
    assert centres.tolist() == [[0, 1], [2, 1], [0, 5], [2, 5]]


def test_folders_of_folders_are_categories_and_take_turns(tmp_path):
    for folder, count in (("duck", 2), ("clock", 1)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            smooth().save(tmp_path / folder / f"{index}.png")
    source = WarpedPictures(tmp_path, None, size=(32, 32), grid=(8, 8))
    assert [file.parent.name for file in source.files] == ["clock", "duck", "duck"]
    group = source[1]
    assert [target.category for target in group.targets] == ["duck", "duck"]
    assert {target.difference for target in group.targets} == set(WARPS)
    assert len(group.targets[0].points) == 64 and group.targets[0].box == 32
    assert torch.equal(source[1].targets[0].truth, group.targets[0].truth)
    assert len(WarpedPictures(tmp_path, 2, size=(32, 32), grid=(8, 8))) == 2


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        WarpedPictures(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image in it"):
        WarpedPictures(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png"):
        WarpedPictures(tmp_path / "broken")


# ---------------------------------------------------------------- SPair-71k


def make_spair(root, split="test", **changes):
    """A data set of two pairs laid out as SPair-71k is."""
    for category in ("cat", "dog"):
        (root / "JPEGImages" / category).mkdir(parents=True)
        smooth(60, 80).save(root / "JPEGImages" / category / "one.jpg")
        smooth(100, 50).save(root / "JPEGImages" / category / "two.jpg")
    folder = root / "PairAnnotation" / split
    folder.mkdir(parents=True)
    for index, category in enumerate(("cat", "dog")):
        pair = {
            "src_imname": "one.jpg",
            "trg_imname": "two.jpg",
            "category": category,
            "src_kps": [[0, 0], [79, 59]],
            "trg_kps": [[10, 20], [40, 90]],
            "src_bndbox": [0, 0, 80, 60],
            "trg_bndbox": [5, 10, 45, 95],
            "viewpoint_variation": index,
        }
        text = json.dumps({k: v for k, v in (pair | changes).items() if v is not None})
        (folder / f"{index:06d}-one-two:{category}.json").write_text(text)
    return root


def test_spair_pairs(tmp_path):
    source = SPairPairs(make_spair(tmp_path), size=(32, 32))
    assert len(source) == 2
    group = source[1]
    (target,) = group.targets
    assert target.category == "dog" and group.prompt == target.prompt == "a photo of a dog"
    assert target.difference == "viewpoint 1" and target.box == 85
    assert target.scale == (50 / 32, 100 / 32)
    # Pixel 10 of 50 has its centre at 10.5 of 50, which is 6.72 of 32.
    expected = torch.tensor([[10.5 * 32 / 50 - 0.5, 20.5 * 32 / 100 - 0.5]])
    torch.testing.assert_close(target.truth[:1], expected)
    assert target.points.min() >= 0 and target.points.max() <= 31
    shift = (target.truth[1] - target.truth[0]) * torch.tensor(target.scale)
    torch.testing.assert_close(shift, torch.tensor([30.0, 70.0]))  # original pixels


def test_spair_chooses_over_the_categories(tmp_path):
    root = make_spair(tmp_path)
    names = {SPairPairs(root, 1, seed=seed).files[0].name for seed in range(3)}
    assert len(names) == 1 and ":cat" in names.pop()
    assert len(SPairPairs(root, 2)) == len(SPairPairs(root, 50)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trg_kps": None}, "it lacks trg_kps"),
        ({"trg_kps": [[1, 2]]}, "the same number"),
        ({"trg_bndbox": [1, 2]}, "a box of four"),
        ({"src_imname": "three.jpg"}, r"three\.jpg.*is not there"),
    ],
)
def test_spair_annotations_that_cannot_be_used(tmp_path, changes, message):
    source = SPairPairs(make_spair(tmp_path, **changes), size=(32, 32))
    with pytest.raises(UserError, match=message):
        source[0]


def test_spair_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        SPairPairs(tmp_path / "none")
    with pytest.raises(UserError, match="no folder PairAnnotation"):
        SPairPairs(tmp_path)
    root = make_spair(tmp_path / "there")
    with pytest.raises(UserError, match="Unknown split of SPair-71k 'tst'. Did you mean 'test'"):
        SPairPairs(root, split="tst")
    (root / "PairAnnotation" / "val").mkdir()
    with pytest.raises(UserError, match="has no pair"):
        SPairPairs(root, split="val")
    broken = sorted((root / "PairAnnotation" / "test").glob("*.json"))[0]
    broken.write_text("{")
    with pytest.raises(UserError, match="is no pair of SPair-71k"):
        SPairPairs(root)[0]
