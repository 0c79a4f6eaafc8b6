from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_sd

from framework.backbones.choose import backbone_of
from framework.concepts.preprocess import prepare_image
from framework.training.data import Batch, CachedLatents, ConceptBatches, Prior, cache_latents
from framework.training.objective import Objective
from framework.training.views import LARGE, SMALL, known_notes, mirrored, resized, views


@pytest.fixture
def wide():
    """80 x 40: a ramp from left to right, so that a column says where it is from."""
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None] * 3, (40, 80, 3))
    return Image.fromarray(np.ascontiguousarray(ramp))


def test_crops_say_where_they_are_from(wide):
    (centre,) = views(wide, 20, 20, "center")
    assert centre.frame == (40, 80, 0, 10)
    assert centre.right == 10
    assert torch.equal(centre.pixels, prepare_image(wide, 20, 20))
    (stretched,) = views(wide, 20, 20, "stretch")
    assert stretched.frame == (40, 80, 0, 0)
    found = views(wide, 40, 40, "random", seed=1)
    assert len({view.frame for view in found}) > 1
    for view in found:
        *original, top, left = view.frame
        assert (original, top) == ([40, 80], 0)
        first = (view.pixels[0, 0, 0, 0] + 1) * 127.5
        assert round(first.item() / 3) == left
        assert view.right == 40 - left


def test_a_mirrored_picture_is_cut_at_the_other_side(wide):
    for view in views(wide, 40, 40, "random", seed=2):
        other = mirrored(view)
        turned = prepare_image(wide, 40, 80).flip(-1)
        left = other.frame[3]
        assert torch.allclose(other.pixels, turned[..., left : left + 40])


def test_sizes_have_words_and_a_valid_part(wide):
    (square,) = views(wide, 32, 32, "center")
    found = resized(square, 60, 0, (SMALL, LARGE))
    shares = [1.0 if v.valid is None else v.valid.mean().sqrt().item() for v in found]
    assert all(view.pixels.shape == square.pixels.shape for view in found)
    assert 0.4 <= min(shares) < 0.5
    assert 30 < sum(share < 1 for share in shares) < 50
    for view, share in zip(found, shares, strict=True):
        if view.valid is None:
            assert view.note in LARGE
            assert view.frame[2] + view.frame[3] >= sum(square.frame[2:])
        elif abs(share - 0.6) > 0.02:  # sides are whole pixels
            assert (view.note in SMALL) == (share < 0.6)
        if view.valid is not None:
            assert not view.pixels[view.valid.expand_as(view.pixels) == 0].any()
    assert {view.note for view in found} == {"", *SMALL, *LARGE}
    assert torch.equal(
        resized(square, 3, 7, ((), ()))[2].pixels, resized(square, 3, 7, ((), ()))[2].pixels
    )


def test_words_the_tokenizer_does_not_know_are_left_out(sd1):
    assert known_notes([sd1.tokenizer]) == (list(SMALL), list(LARGE))
    closed = tiny_sd().tokenizer
    closed.init_kwargs["words"] = ["far", "away", "close"]
    assert known_notes([sd1.tokenizer, closed]) == (["far away"], [])


def test_notes_and_valid_cells_reach_the_batch(sd1):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))]
    cached = cache_latents(backbone_of(sd1), images, 32, 32, sizes=6, notes=(["tiny"], ["near"]))
    assert len(cached.mean) == len(cached.notes) == 6
    assert cached.valid.shape == (6, 1, 4, 4)
    assert set(cached.valid.unique().tolist()) == {0.0, 1.0}
    plain = torch.zeros(1, 4, 4, 4)
    prior = Prior(CachedLatents(plain, plain, torch.tensor([[9, 9, 0, 0]])), "a duck", 2, 1.0)
    batch = ConceptBatches(cached, ["a <x>"], 6, 1000, 0, prior=prior).batch(0)
    assert {"tiny a <x>", "near a <x>", "a duck"} <= set(batch.prompts)
    assert (batch.valid[6:] == 1).all()
    assert batch.frames[6:].tolist() == [[9, 9, 0, 0]] * 2
    for row, prompt in enumerate(batch.prompts[:6]):
        assert (batch.valid[row].mean() == 1) or not prompt.startswith("near")


def test_the_loss_looks_inside_alone():
    latents = torch.zeros(2, 4, 2, 2)
    valid = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(2, 1, 2, 2).clone()
    valid[1] = 1
    batch = Batch(latents, latents, torch.tensor([0, 0]), ["a", "b"], valid=valid)
    objective = Objective(torch.tensor([0.5]), "epsilon")
    output = torch.tensor([[3.0, 9.0], [9.0, 9.0]]).expand(2, 4, 2, 2)
    assert objective.loss(output, batch).item() == pytest.approx((9 + (9 + 3 * 81) / 4) / 2)


def test_sdxl_is_told_what_a_picture_is(sdxl, wide):
    model = backbone_of(sdxl)
    cached = cache_latents(model, [wide], 32, 32, crop="random", seed=3)
    batch = ConceptBatches(cached, ["a duck"], 4, 1000, 0).batch(0)
    told = model.encode_texts(batch.prompts, 32, 32, batch.frames).added["time_ids"]
    assert told[:, [0, 1, 2, 4, 5]].tolist() == [[40, 80, 0, 32, 32]] * 4
    corners = {view.frame[3] for view in views(wide, 32, 32, "random", 3)}
    assert set(told[:, 3].tolist()) == corners
    assert len(corners) > 1
