"""The reference's mask from a picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny import tiny_sampler

from framework.errors import UserError
from framework.masks.given import GivenMask, read_mask


@pytest.fixture
def folder(tmp_path):
    """Two pictures, 8 x 4 pixels: left half white; the middle half white."""
    for name, (left, right) in {"a.png": (0, 4), "b.png": (2, 6)}.items():
        picture = Image.new("L", (8, 4))
        picture.paste(255, (left, 0, right, 4))
        picture.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_read_mask(folder):
    stretched = read_mask(folder / "a.png", 4, 4, "stretch")[0]
    assert stretched.tolist() == [[1, 1, 0, 0]] * 4
    cropped = read_mask(folder / "b.png", 4, 4, "crop")[0]  # as the reference is: the middle
    assert cropped.tolist() == [[1, 1, 1, 1]] * 4
    # b.png is white in columns 2 to 5; of 3 columns, floor(i * 8 / 3) takes 0, 2, 5, PIL 1, 4, 6
    nearest = read_mask(folder / "b.png", 1, 3, "stretch_nearest")[0]
    assert nearest.tolist() == [[0, 1, 1]]
    assert read_mask(folder / "b.png", 1, 3, "stretch")[0].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("index", [0, 1])
def test_it_masks_the_reference_only(sd1, folder, index):
    mask = GivenMask(path=str(folder), index=index, resize="stretch")
    sampler = tiny_sampler(sd1, mask=mask, injector="appearance_matching")
    masks = sampler("a photo of a {}", num_inference_steps=2, return_trace=True).trace[1].masks
    assert torch.equal(masks.target, torch.ones(2, 16, 16))
    white = masks.reference[0, 0].nonzero().flatten()
    assert white.tolist() == list(range(8)) if index == 0 else list(range(4, 12))


def test_bad_files_are_refused(sd1, folder):
    for options, message in (
        ({}, "mask.path is not given; name a mask picture"),
        ({"path": str(folder / "no.png")}, "no.png' cannot be read as a picture"),
        ({"path": str(folder / "notes.txt")}, "notes.txt' cannot be read as a picture"),
        ({"path": str(folder), "index": 2}, "mask.index is 2, but .* has 2 picture"),
    ):
        with pytest.raises(UserError, match=message):
            tiny_sampler(sd1, mask=GivenMask(**options))
