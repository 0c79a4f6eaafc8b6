"""The sampler's call: what it takes and what it returns."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_concept, tiny_parts, tiny_sampler

from framework.config.sampler import SamplerConfig
from framework.errors import UserError
from framework.guidance.semantic_matching import SemanticMatching
from framework.injectors.appearance_matching import AppearanceMatching
from framework.masks.cross_attention import CrossAttentionMask
from framework.masks.none import NoMask
from framework.sampling.sampler import Sampler

PROMPT = "a photo of a {}"


@pytest.fixture(scope="module")
def sampler(sd1):
    return tiny_sampler(sd1)


@pytest.fixture(scope="module")
def latent(sampler):
    """The image of seed 7 as a latent."""
    return sampler(PROMPT, seed=7, output_type="latent").images


# ------------------------------------------------------------------ outputs


def test_output_types(sampler, latent):
    assert latent.shape == (1, 4, 16, 16)
    pt = sampler(PROMPT, seed=7, output_type="pt").images
    array = sampler(PROMPT, seed=7, output_type="np").images
    (picture,) = sampler(PROMPT, seed=7).images
    assert pt.shape == (1, 3, 128, 128) and pt.min() >= 0 and pt.max() <= 1
    assert array.shape == (1, 128, 128, 3) and array.dtype == np.float32
    np.testing.assert_array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert isinstance(picture, Image.Image) and picture.size == (128, 128)
    np.testing.assert_array_equal(np.array(picture), (array[0] * 255).round().astype("uint8"))


def test_many_pictures_come_in_order(sampler):
    images = sampler([PROMPT, "a {} on the snow"], seed=[7, 8], num_inference_steps=2).images
    assert len(images) == 2
    first = sampler(PROMPT, seed=7, num_inference_steps=2).images[0]
    assert abs(np.array(images[0], int) - np.array(first, int)).max() <= 1


# ------------------------------------------------------------------ noise


def test_seed_generator_and_latents_are_one_noise(sampler):
    options = {"output_type": "latent", "num_inference_steps": 2}
    seeded = sampler(PROMPT, seed=7, **options).images
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    for given in (
        {"latents": noise},
        {"generator": torch.Generator().manual_seed(7)},
        {"generator": [torch.Generator().manual_seed(7)]},
        {"seed": [7]},
        {"seed": np.int64(7)},
    ):
        assert torch.equal(sampler(PROMPT, **options, **given).images, seeded)
    assert not torch.equal(sampler(PROMPT, seed=8, **options).images, seeded)


def test_the_default_seed_is_zero(sampler):
    options = {"output_type": "latent", "num_inference_steps": 2}
    default = sampler(PROMPT, **options).images
    assert torch.equal(sampler(PROMPT, seed=0, **options).images, default)


def test_one_generator_for_many_images_draws_as_diffusers_does(sd1):
    plain = tiny_sampler(sd1, injector="none")
    ours = plain([PROMPT] * 3, generator=torch.Generator().manual_seed(1), output_type="np").images
    stock = sd1(
        "a photo of a toy dog",
        num_images_per_prompt=3,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    assert abs(ours - stock).max() < 1e-4


def test_one_prompt_with_several_seeds_or_latents(sampler, latent):
    images = sampler(PROMPT, seed=[6, 7], output_type="latent").images
    torch.testing.assert_close(images[1:], latent, atol=2e-4, rtol=1e-4)
    noise = torch.randn(2, 4, 16, 16)
    assert len(sampler(PROMPT, latents=noise, num_inference_steps=1).images) == 2


def test_given_latents_are_not_changed(sampler):
    noise = torch.randn(1, 4, 16, 16)
    before = noise.clone()
    sampler(PROMPT, latents=noise, num_inference_steps=2)
    assert torch.equal(noise, before)


# ------------------------------------------------------------------ trace


def test_trace(sampler):
    """Shapes as StepTrace documents them, at the finest matched grid."""
    output = sampler([PROMPT, "a {} on the snow"], output_type="latent", return_trace=True)
    assert [step.step for step in output.trace] == [0, 1, 2]
    assert [step.timestep for step in output.trace] == [667, 334, 1]
    assert [step.matched for step in output.trace] == [False, True, True]
    for step in output.trace:
        assert step.latents.shape == step.target_clean.shape == (2, 4, 16, 16)
        assert step.reference_clean.shape == (1, 4, 16, 16)
    assert output.trace[0].flow is output.trace[0].masks is output.trace[0].features is None
    for step in output.trace[1:]:
        assert step.flow.shape == (4, 16, 16, 2)
        assert step.confidence.shape == (4, 16, 16)
        assert set(step.confidence.unique().tolist()) <= {0.0, 1.0}
        assert step.masks.target.shape == step.masks.reference.shape == (4, 16, 16)
        assert torch.equal(step.masks.target[:2], step.masks.target[2:])
        assert step.features.target.shape == step.features.reference.shape == (4, 16, 16, 32)
    assert torch.equal(output.trace[-1].latents, output.images)


def test_trace_without_classifier_free_guidance_or_reference(sampler, sd1):
    one = sampler(PROMPT, guidance_scale=1.0, return_trace=True, num_inference_steps=2).trace
    assert one[1].flow.shape == (1, 16, 16, 2)
    plain = tiny_sampler(sd1, injector="none")
    trace = plain(PROMPT, return_trace=True, num_inference_steps=2).trace
    assert len(trace) == 2
    assert all(step.reference_clean is None and step.flow is None for step in trace)
    assert sampler(PROMPT, num_inference_steps=1).trace == []


def test_trace_of_chunks_is_that_of_one_batch(sd1, sampler):
    prompts = [PROMPT, "a {} on the snow", "a red {}"]
    options = {"seed": [1, 2, 3], "return_trace": True, "num_inference_steps": 3}
    whole = sampler(prompts, **options).trace
    chunked = tiny_sampler(sd1, options={"batch_size": 2})(prompts, **options).trace
    assert len(whole) == len(chunked) == 3
    for a, b in zip(whole, chunked, strict=True):
        for name in ("latents", "target_clean", "reference_clean", "flow", "confidence"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            if x is not None:
                torch.testing.assert_close(x, y, atol=5e-4, rtol=1e-4)
        assert (a.step, a.timestep, a.matched) == (b.step, b.timestep, b.matched)
        if a.masks is not None:
            torch.testing.assert_close(a.masks.target, b.masks.target, atol=1e-4, rtol=0)
            cosine = (a.features.target[:, 3, 3] @ a.features.reference[:, 5, 5].mT).diagonal()
            other = (b.features.target[:, 3, 3] @ b.features.reference[:, 5, 5].mT).diagonal()
            torch.testing.assert_close(cosine, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_sizes_that_are_not_square(request, name):
    """192 x 256 pixels: a 24 x 32 latent, whose halvings are 12 x 16, 6 x 8 and 3 x 4."""
    pipe = request.getfixturevalue(name)
    mask = CrossAttentionMask(resolution=6)
    sized = tiny_sampler(pipe, options={"height": 192, "width": 256}, mask=mask)
    output = sized(PROMPT, num_inference_steps=2, output_type="np", return_trace=True)
    assert output.images.shape == (1, 192, 256, 3)
    fine = (12, 16) if name == "sdxl" else (24, 32)
    assert output.trace[1].flow.shape == (2, *fine, 2)
    assert output.trace[1].masks.target.shape == (2, *fine)


def test_sizes_that_do_not_halve_evenly(sd1):
    """120 x 88 pixels: a 15 x 11 latent, halved with rounding up."""
    options = {"height": 120, "width": 88}
    output = tiny_sampler(sd1, options=options, mask=CrossAttentionMask(resolution=3))(
        PROMPT, num_inference_steps=2, output_type="np", return_trace=True
    )
    assert output.images.shape == (1, 120, 88, 3)
    assert output.trace[1].flow.shape == (2, 15, 11, 2)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_half_precision(sd1, dtype):
    pipe = copy.deepcopy(sd1).to(dtype)
    result = tiny_sampler(pipe)(PROMPT, output_type="latent", return_trace=True)
    assert result.images.dtype == dtype and torch.isfinite(result.images).all()
    assert result.trace[1].features.target.dtype == torch.float32
    assert tiny_sampler(pipe)(PROMPT, num_inference_steps=2).images[0].size == (128, 128)
    guided = tiny_sampler(pipe, guidance=SemanticMatching(start_step=1, weight=1.0))
    assert torch.isfinite(guided(PROMPT, output_type="latent").images).all()


def test_channels_last(sd1, latent):
    pipe = copy.copy(sd1)
    pipe.unet = copy.deepcopy(sd1.unet).to(memory_format=torch.channels_last)
    images = tiny_sampler(pipe)(PROMPT, seed=7, output_type="latent").images
    torch.testing.assert_close(images, latent, atol=5e-4, rtol=1e-4)


def test_lora_in_the_unet_takes_part(sd1, latent):
    """A peft adapter sits inside to_q ... to_out; the stand-in processors go through it."""
    from peft import LoraConfig

    pipe = copy.copy(sd1)
    pipe.unet = copy.deepcopy(sd1.unet)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    options = {"seed": 7, "output_type": "latent"}
    ours = tiny_sampler(pipe)(PROMPT, **options).images
    assert (ours - latent).abs().mean() > 1e-3
    pipe.unet.disable_adapters()
    off = tiny_sampler(pipe)(PROMPT, **options).images
    torch.testing.assert_close(off, latent, atol=2e-4, rtol=1e-4)
    pipe.unet.enable_adapters()
    plain = tiny_sampler(pipe, injector="none")(PROMPT, **options).images
    generator = torch.Generator().manual_seed(7)
    stock = pipe(
        "a photo of a toy dog", num_inference_steps=3, generator=generator, output_type="latent"
    ).images
    torch.testing.assert_close(plain, stock, atol=2e-4, rtol=1e-4)


def test_a_model_without_placeholder(sd1):
    """Plain Stable Diffusion: the class name alone stands for the concept."""
    plain = tiny_sampler(sd1, tiny_concept(placeholder=""))
    trace = plain(PROMPT, num_inference_steps=2, return_trace=True).trace
    assert trace[1].masks.target.max() == 1


def test_too_few_steps_to_inject_warn(sd1, caplog):
    parts = tiny_parts(sd1, injector=AppearanceMatching(start_step=4))
    late = Sampler(sd1, tiny_concept(), parts, SamplerConfig(num_inference_steps=8))
    options = {"output_type": "latent", "num_inference_steps": 3}
    with caplog.at_level(logging.WARNING):
        images = late(PROMPT, **options).images
    assert "nothing is injected" in caplog.text
    plain = tiny_sampler(sd1, injector="none")
    assert torch.equal(images, plain(PROMPT, **options).images)


def test_the_reference_is_prepared_once_per_number_of_steps(sd1):
    fresh = tiny_sampler(sd1)
    assert fresh.reference() is fresh.reference(3)
    assert fresh.reference(2) is not fresh.reference(3)
    assert fresh.reference(2).trajectory.shape == (2, 1, 4, 16, 16)
    assert fresh.reference().image.shape == (1, 3, 128, 128)
    assert fresh.reference().latent.shape == (1, 4, 16, 16)


def test_no_mask_needs_no_cross_attention(sd1):
    output = tiny_sampler(sd1, mask=NoMask())(PROMPT, num_inference_steps=2, return_trace=True)
    assert output.trace[1].masks.target.min() == 1


def test_a_trace_keeps_what_is_asked_for(sampler):
    options = {"output_type": "latent", "return_trace": ("matches",), "trace_steps": [2]}
    (step,) = sampler(PROMPT, **options).trace
    assert step.step == 2 and step.flow is not None
    assert step.masks is step.features is step.reference_clean is None
    with pytest.raises(UserError, match="Unknown part of a trace 'mask'.*Did you mean 'masks'"):
        sampler(PROMPT, return_trace=["mask"])
    with pytest.raises(UserError, match="trace_steps has -1"):
        sampler(PROMPT, return_trace=True, trace_steps=[-1])
