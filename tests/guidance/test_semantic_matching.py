"""Semantic matching guidance: the sign, the distance, and what it must not touch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_sampler

from framework.backbones.choose import backbone_of
from framework.backbones.schedule import alpha_bar
from framework.errors import UserError
from framework.geometry import warp
from framework.guidance.semantic_matching import SemanticMatching, masked_distance
from framework.interfaces import GuidanceInputs
from framework.interfaces.levels import Level, clean_from_eps, to_eps
from framework.types import Correspondence, Masks


def inputs_for(predict, latents, abar, halves=1):
    """Inputs of a guided step whose noise comes from ``predict(latents)``."""
    pairs, _, height, width = latents.shape
    generator = torch.Generator().manual_seed(1)
    latents = latents.clone().requires_grad_()
    mask = torch.rand(pairs, height, width, generator=generator)
    flow = torch.randint(-2, 3, (pairs, height, width, 2), generator=generator).float()
    confidence = (torch.rand(pairs, height, width, generator=generator) > 0.3).float()
    return GuidanceInputs(
        latents=latents,
        eps=predict(latents),
        level=Level.of_alpha_bar(abar),
        reference_clean=torch.randn(latents.shape, generator=generator),
        correspondence=Correspondence(flow, confidence),
        masks=Masks(mask, mask),
        halves=halves,
    )


def distance(inputs, eps, kind="l2"):
    weight = inputs.correspondence.confidence * inputs.masks.target
    warped = warp(inputs.reference_clean, inputs.correspondence.flow)
    clean = clean_from_eps(eps, inputs.latents, inputs.level)
    return masked_distance(clean, warped, weight, kind, inputs.halves).detach()


def gaussian(abar, mean=0.2, deviation=0.7):
    """The exact noise prediction for images from N(mean, deviation^2)."""
    spread = abar * deviation**2 + 1 - abar
    return lambda z: (1 - abar) ** 0.5 * (z - abar**0.5 * mean) / spread


@pytest.mark.parametrize("abar", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["l2", "mse"])
@pytest.mark.parametrize("gradient", ["full", "no_attention"])
def test_a_guided_step_lowers_the_distance_of_an_exact_denoiser(abar, kind, gradient):
    """In both variants, for every pair (METHOD.md, section 3: mind the sign)."""
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = inputs_for(gaussian(abar), latents, abar)
    guided = SemanticMatching(weight=1.0, distance=kind, gradient=gradient)(inputs)
    assert (distance(inputs, guided, kind) < distance(inputs, inputs.eps, kind)).all()


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_a_guided_step_lowers_the_distance_of_a_real_unet(request, name):
    """The gradient runs through the whole tiny U-Net of each family."""
    pipe = request.getfixturevalue(name)
    model = backbone_of(pipe)
    conditional, unconditional = model.encode_prompt("a photo of a dog", 128, 128)
    condition = type(conditional).stack([unconditional, conditional])
    abar, kind = alpha_bar(pipe.scheduler, 501), pipe.scheduler.config.prediction_type

    def predict(rows):
        output = model.denoise(rows, 501, condition)
        return to_eps(output, rows, Level.of_alpha_bar(abar), kind)

    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = inputs_for(predict, noise.repeat(2, 1, 1, 1), abar, halves=2)
    before = distance(inputs, inputs.eps)
    guided = SemanticMatching(weight=1.0)(inputs)
    after = distance(inputs, guided)
    print(f"{name}: g {before.tolist()} -> {after.tolist()}")
    assert (after < before).all()


def test_guidance_lowers_the_distance_in_a_run(sd1):
    """One guided step of the sampler ends nearer to the warped reference than without."""

    class Watched(SemanticMatching):
        def correct(self, inputs):
            eps = super().correct(inputs)
            self.seen = distance(inputs, inputs.eps), distance(inputs, eps)
            return eps

    guidance = Watched(start_step=1, end_step=2, weight=0.5)
    tiny_sampler(sd1, guidance=guidance)("a photo of a {}", output_type="latent")
    assert (guidance.seen[1] < guidance.seen[0]).all()


def test_the_correction_is_the_gradient_formula():
    """eps + weight * sqrt(1 - abar) * dg/dz for a prediction whose gradient is known by hand."""
    abar, latents = 0.36, torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = inputs_for(lambda z: z * 0.0 + 0.1, latents, abar)  # eps does not depend on z
    guided = SemanticMatching(weight=3.0, distance="mse")(inputs)
    weight = (inputs.correspondence.confidence * inputs.masks.target)[:, None]
    clean = (latents - 0.8 * 0.1) / 0.6
    warped = warp(inputs.reference_clean, inputs.correspondence.flow)
    gradient = -2 * weight**2 * (warped - clean) / (4 * weight.sum()) / 0.6
    torch.testing.assert_close(guided, 0.1 + 3.0 * 0.8 * gradient)


@pytest.mark.parametrize("injector", ["appearance_matching", "none"])
def test_weight_zero_changes_nothing(sd1, injector):
    plain = tiny_sampler(sd1, injector=injector)("a photo of a {}", output_type="latent").images
    guidance = SemanticMatching(weight=0.0, start_step=1)
    guided = tiny_sampler(sd1, injector=injector, guidance=guidance)
    assert torch.equal(guided("a photo of a {}", output_type="latent").images, plain)
    abar = 0.5
    inputs = inputs_for(gaussian(abar), torch.randn(2, 4, 8, 8), abar)
    assert torch.equal(SemanticMatching(weight=0.0)(inputs), inputs.eps)


@pytest.mark.parametrize(("gradient", "scale"), [("full", 7.5), ("no_attention", 1.0)])
def test_guidance_without_injection(sd1, gradient, scale):
    """Guidance works alone, with and without classifier-free guidance."""
    plain = tiny_sampler(sd1, injector="none")
    guided = tiny_sampler(
        sd1, injector="none", guidance=SemanticMatching(start_step=0, gradient=gradient)
    )
    options = {"output_type": "latent", "guidance_scale": scale, "return_trace": True}
    first, second = plain("a photo of a {}", **options), guided("a photo of a {}", **options)
    assert torch.isfinite(second.images).all()
    assert (first.images - second.images).abs().max() > 1e-3
    assert not any(step.matched for step in second.trace)


@pytest.mark.parametrize("kind", [pytest.param("l2", marks=pytest.mark.slow), "mse"])
def test_guided_images_do_not_depend_on_their_batch(sd1, kind):
    guidance = SemanticMatching(start_step=1, distance=kind, gradient="no_attention")
    sampler = tiny_sampler(sd1, guidance=guidance)
    prompts, seeds = ["a photo of a {}", "a {} on the snow"], [3, 4]
    together = sampler(prompts, seed=seeds, output_type="latent").images
    for row in range(2):
        alone = sampler(prompts[row], seed=seeds[row], output_type="latent").images[0]
        torch.testing.assert_close(alone, together[row], atol=5e-4, rtol=1e-3)


def test_only_guided_steps_differ(sd1):
    options = {"output_type": "latent", "return_trace": True}
    plain = tiny_sampler(sd1)("a photo of a {}", **options).trace
    guided = tiny_sampler(sd1, guidance=SemanticMatching(start_step=2))
    trace = guided("a photo of a {}", **options).trace
    same = [torch.equal(a.latents, b.latents) for a, b in zip(plain, trace, strict=True)]
    assert same == [True, True, False]


def test_distance_values():
    predicted, warped = torch.zeros(2, 4, 1, 2), torch.zeros(2, 4, 1, 2)
    warped[:, :, 0, 0] = 3.0  # norm 6 over 4 channels
    warped[:, :, 0, 1] = 100.0
    weight = torch.tensor([[[0.5, 0.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(
        masked_distance(predicted, warped, weight, "l2"), torch.tensor([6.0, 0.0])
    )
    # (0.5 * 3)^2 * 4 channels / (0.5 * 4 channels)
    torch.testing.assert_close(
        masked_distance(predicted, warped, weight, "mse"), torch.tensor([4.5, 0.0])
    )


def test_mse_shares_one_normaliser_between_the_halves_of_a_target():
    """Pairs are [a uncond, b uncond, a cond, b cond]; a's halves share, b's do not join in."""
    generator = torch.Generator().manual_seed(0)
    predicted, warped = torch.randn(2, 4, 4, 3, 3, generator=generator)
    weight = torch.rand(4, 3, 3, generator=generator)
    got = masked_distance(predicted, warped, weight, "mse", halves=2)
    squared = (weight[:, None] * (warped - predicted)).square().sum(dim=(1, 2, 3))
    for target in range(2):
        rows = [target, target + 2]
        torch.testing.assert_close(got[rows], squared[rows] / (4 * weight[rows].sum()))
    alone = masked_distance(predicted[::2], warped[::2], weight[::2], "mse", halves=2)
    torch.testing.assert_close(alone, got[::2])


def test_no_weight_no_correction():
    nothing = Masks(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8))
    for kind in ("l2", "mse"):
        inputs = inputs_for(gaussian(0.5), torch.randn(2, 4, 8, 8), 0.5)
        guided = SemanticMatching(distance=kind)(replace(inputs, masks=nothing))
        assert torch.equal(guided, inputs.eps)


def test_an_empty_window_is_refused():
    with pytest.raises(UserError, match="end_step is 4; expected more than start_step"):
        SemanticMatching(start_step=4, end_step=4)
