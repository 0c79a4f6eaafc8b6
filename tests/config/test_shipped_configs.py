"""Every shipped configuration of a real family, on a tiny checkpoint of that family."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_sd, tiny_sdxl

from framework.composer import compose
from framework.config.page import load_config
from framework.types import Concept

#: Configuration -> fixture with a U-Net of its family.
FAMILIES = {
    "models/sd1": "sd1",
    "models/sd2": "sd2",
    "models/sdxl": "sdxl",
    "presets/paper": "sd1",
    "presets/official": "sd1",
}
#: Latents of the real model, where the attention grids are those the files speak of.
REAL = {
    "sd1": lambda: tiny_sd(sample_size=64),
    "sd2": lambda: tiny_sd(sample_size=96, version=2),
    "sdxl": lambda: tiny_sdxl(sample_size=128),
}


@pytest.fixture(scope="module")
def dog() -> Concept:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Concept("dog", "", "dog", (Image.fromarray(pixels),))


@pytest.mark.parametrize("name", FAMILIES)
def test_its_layers_are_there(name, dog, request):
    sampler = compose(
        name,
        pipe=request.getfixturevalue(FAMILIES[name]),
        concept=dog,
        overrides=["model.path=unused", "mask.resolution=4"],  # the fixtures' latents are small
    )
    assert sampler.config.num_inference_steps == 50


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_it_draws_at_the_family_s_own_size(name, dog):
    pipe = REAL[FAMILIES[name]]()
    pipe.set_progress_bar_config(disable=True)
    early = ["sampler.num_inference_steps=2", "injector.start_step=1"]
    if name == "presets/paper":
        early.append("guidance.start_step=1")
    sampler = compose(name, pipe=pipe, concept=dog, overrides=["model.path=unused", *early])
    result = sampler("a photo of a {} in snow", seed=0, output_type="latent", return_trace=True)
    assert [step.matched for step in result.trace] == [False, True]
    seen = result.trace[-1]
    side = pipe.unet.config.sample_size
    assert result.images.shape == (1, 4, side, side)
    assert result.images.isfinite().all()
    finest = side // 2 if FAMILIES[name] == "sdxl" else side
    assert seen.flow.shape == (2, finest, finest, 2)
    assert seen.masks.target.min() == 0
    assert seen.masks.target.max() == 1


def test_better_matching_changes_matching_alone():
    """So it may follow another configuration, as it does in ``compare --config``."""
    ours, plain = load_config(["compare", "presets/better_matching"]), load_config("compare")
    assert ours.prompts == plain.prompts and ours.sampler == plain.sampler
    assert ours.injector == {**plain.injector, "confidence_threshold": 0.2}
    assert (ours.extractor["name"], ours.matcher["name"]) == ("fused", "smooth_flow")
