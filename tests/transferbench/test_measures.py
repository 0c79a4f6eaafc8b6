"""Measures of transfer on pictures whose values can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from framework.transferbench.measures import (
    colour_error,
    pattern_contrast,
    region_psnr,
    regions,
    removed_share,
    structure_kept,
)


def test_regions_part_the_picture():
    mask = torch.tensor([[True, True], [False, False]])
    visible = torch.tensor([[True, False], [False, False]])
    found = regions(mask, visible)
    total = sum(where.int() for where in found.values())
    assert torch.equal(total, torch.ones(2, 2, dtype=torch.int))
    assert found["hidden"].tolist() == [[False, True], [False, False]]


def test_the_error_of_black_against_white_is_one():
    where = torch.ones(4, 4, dtype=torch.bool)
    black, white = -torch.ones(3, 4, 4), torch.ones(3, 4, 4)
    assert colour_error(black, white, where) == 1.0
    assert colour_error(white, white, where) == 0.0
    assert math.isnan(colour_error(black, white, ~where))


def test_psnr_of_a_known_difference():
    where = torch.ones(4, 4, dtype=torch.bool)
    picture = torch.zeros(3, 4, 4)
    assert region_psnr(picture + 0.2, picture, where) == pytest.approx(20.0, abs=1e-4)


def test_contrast_sees_stripes_and_not_the_edge_between_parts():
    parts = torch.ones(32, 32, dtype=torch.long)
    parts[:, 16:] = 2
    plain = torch.full((3, 32, 32), -1.0)
    plain[:, :, 16:] = 1.0
    striped = plain.clone()
    striped[:, ::4] *= -1
    assert pattern_contrast(plain, parts) == pytest.approx(0.0, abs=1e-3)
    assert pattern_contrast(striped, parts) > 0.3
    assert math.isnan(pattern_contrast(plain, torch.zeros_like(parts)))


def test_contrast_does_not_depend_on_the_pattern_s_phase():
    parts = torch.ones(32, 32, dtype=torch.long)
    stripes = torch.ones(3, 32, 32)
    stripes[:, :, ::2] = -1
    assert pattern_contrast(stripes, parts) == pytest.approx(
        pattern_contrast(stripes.roll(1, dims=-1), parts), rel=1e-3
    )


def test_structure_follows_the_outline_whatever_the_colour():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:24, 8:24] = True
    one, other, moved = (torch.zeros(3, 32, 32) for _ in range(3))
    one[:, mask] = 1.0
    other[:, mask] = -0.5
    moved[:, mask.roll(6, dims=1)] = 1.0
    assert structure_kept(other, one, mask) == pytest.approx(1.0, abs=1e-4)
    assert structure_kept(moved, one, mask) < 0.6


def test_the_removed_share_is_one_at_the_floor_and_zero_at_nothing():
    assert removed_share(0.03, 0.33, 0.03) == pytest.approx(1.0)
    assert removed_share(0.33, 0.33, 0.03) == 0.0
    assert removed_share(0.18, 0.33, 0.03) == pytest.approx(0.5)
    assert math.isnan(removed_share(0.1, 0.03, 0.03))
