from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from framework.concepts.preprocess import nearest_pixels, prepare_image


def ramp(height: int, width: int) -> Image.Image:
    """Grey value 40 * row + column."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray((40 * rows + columns).astype(np.uint8))


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [  # by hand: floor(i * before / after)
        (5, 3, [0, 1, 3]),
        (3, 5, [0, 0, 1, 1, 2]),
        (7, 4, [0, 1, 3, 5]),
        (4, 4, [0, 1, 2, 3]),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (9, 2, [0, 4]),
    ],
)
def test_nearest_pixels_by_hand(before, after, taken):
    wide = np.asarray(nearest_pixels(ramp(1, before), 1, after))
    assert wide.tolist() == [taken]
    tall = np.asarray(nearest_pixels(ramp(before, 1), after, 1))
    assert tall.tolist() == [[40 * row % 256] for row in taken]


def test_stretch_nearest_takes_torch_s_pixels_and_not_pil_s():
    picture = Image.fromarray(
        np.random.default_rng(3).integers(0, 256, (330, 487, 3), dtype=np.uint8)
    )
    ours = prepare_image(picture, 256, 512, "stretch_nearest")
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    assert torch.equal(ours, F.interpolate(pixels, (256, 512), mode="nearest") / 127.5 - 1)
    centred = np.array(picture.resize((512, 256), Image.Resampling.NEAREST))
    assert (ours[0].permute(1, 2, 0) != torch.from_numpy(centred) / 127.5 - 1).any()


def test_every_pixel_may_be_a_tuple_or_a_number():
    for mode in ("L", "RGB", "RGBA", "F"):
        small = nearest_pixels(ramp(6, 6).convert(mode), 2, 3)
        assert (small.mode, small.size) == (mode, (3, 2))
