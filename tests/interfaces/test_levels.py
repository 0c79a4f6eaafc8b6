"""Noise levels and predictions: one arithmetic for diffusion and flow matching."""

from __future__ import annotations

import math

import pytest
import torch

from framework.interfaces.levels import (
    PREDICTIONS,
    Level,
    clean_from,
    clean_from_eps,
    from_eps,
    move,
    noisy,
    to_eps,
)

LEVELS = {
    **dict.fromkeys(("epsilon", "v_prediction", "sample"), Level.of_alpha_bar(0.3)),
    "flow": Level.of_flow(0.7),
}


def truth(prediction: str, clean: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """What a perfect network gives."""
    a, s = LEVELS[prediction]
    return {
        "epsilon": eps,
        "v_prediction": a * eps - s * clean,
        "sample": clean,
        "flow": eps - clean,
    }[prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_conversions_agree_with_each_other(prediction):
    clean, eps = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    level, output = LEVELS[prediction], truth(prediction, clean, eps)
    latents = noisy(clean, eps, level)
    torch.testing.assert_close(to_eps(output, latents, level, prediction), eps)
    torch.testing.assert_close(from_eps(eps, latents, level, prediction), output)
    torch.testing.assert_close(clean_from(output, latents, level, prediction), clean)
    torch.testing.assert_close(clean_from_eps(eps, latents, level), clean)


def test_a_move_of_flow_matching_is_eulers_step():
    clean, eps = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    level, to = Level.of_flow(0.7), Level.of_flow(0.4)
    latents = noisy(clean, eps, level)
    euler = latents + (to.s - level.s) * (eps - clean)
    torch.testing.assert_close(move(eps, latents, level, to), euler)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow", "sample"])
def test_pure_noise_has_a_clean_prediction(prediction):
    latents, output = torch.randn(2, 1, 4, 2, 2)
    expected = {"v_prediction": -output, "flow": latents - output, "sample": output}[prediction]
    torch.testing.assert_close(clean_from(output, latents, Level(0.0, 1.0), prediction), expected)


def test_levels_of_a_diffusion_model_have_unit_variance():
    level = Level.of_alpha_bar(0.3)
    assert level.a**2 + level.s**2 == pytest.approx(1)
    assert level.ratio == pytest.approx(math.sqrt(0.7 / 0.3))
    assert Level(0.0, 1.0).ratio == math.inf and Level.of_flow(0.0) == (1.0, 0.0)
