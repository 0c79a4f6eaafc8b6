"""Every registered mask provider keeps the contract of framework.interfaces.MaskProvider."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw
from tiny import tiny_sampler

from framework.interfaces import MASKS

#: What a provider cannot do without, by its name; others are tested with their defaults.
OPTIONS = {"cross_attention": {"resolution": 4}, "given": {"path": "mask.png"}}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("masks") / "mask.png"
    image = Image.new("L", (128, 96))
    ImageDraw.Draw(image).ellipse((40, 20, 90, 80), fill=255)
    image.save(file)
    return str(file)


@pytest.fixture(params=MASKS.names())
def provider(request, picture):
    options = dict(OPTIONS.get(request.param, {}))
    if "path" in options:
        options["path"] = picture
    return MASKS.get(request.param)(**options)


def masks_of(pipe, provider, prompts, seeds, **options):
    sampler = tiny_sampler(pipe, mask=provider, options=options)
    trace = sampler(
        prompts, seed=seeds, num_inference_steps=2, output_type="latent", return_trace=True
    ).trace
    return trace[1].masks


@pytest.mark.parametrize("size", [(128, 128), (96, 128)])
def test_shape_range_and_batch(sd1, provider, size):
    """On the finest matched grid, for both halves, whatever else is in the batch."""
    height, width = size
    if height == 96 and provider.name == "cross_attention":
        provider = type(provider)(resolution=3)
    options = {"height": height, "width": width}
    prompts, seeds = ["a photo of a {}", "a {} on the snow"], [1, 2]
    together = masks_of(sd1, provider, prompts, seeds, **options)
    for mask in (together.target, together.reference):
        assert mask.shape == (4, height // 8, width // 8) and mask.dtype == torch.float32
        assert mask.min() >= 0 and mask.max() <= 1
        assert torch.isfinite(mask).all()
    for row in range(2):
        alone = masks_of(sd1, provider, prompts[row], seeds[row], **options)
        torch.testing.assert_close(alone.target, together.target[row::2], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.reference, together.reference[row::2], atol=1e-3, rtol=0)


def test_deterministic(sd1, provider):
    first, second = (masks_of(sd1, provider, "a photo of a {}", 1) for _ in range(2))
    assert torch.equal(first.target, second.target)
    assert torch.equal(first.reference, second.reference)
