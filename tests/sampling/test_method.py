"""What must hold of the method (METHOD.md, section 5), on tiny pipelines of the real classes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from tiny import attention_inputs, tiny_parts, tiny_sampler

from framework.backbones.choose import backbone_of
from framework.injectors.appearance_matching import AppearanceMatching
from framework.injectors.functional import attention
from framework.interfaces import Denoiser, FeatureExtractor, Injector, Matcher, ReferenceTrajectory
from framework.masks.none import NoMask
from framework.trajectories.ddim_inversion import DDIMInversion
from framework.types import Correspondence, Features, Masks
from matchers.cycle_argmax import CycleArgmax

PROMPT = "a photo of a {}"


class Replay(ReferenceTrajectory):
    """Shows the reference branch latents recorded before."""

    def __init__(self, latents=None):
        super().__init__()
        self.latents = latents

    def invert(self, denoiser, clean):
        return self.latents


class Plain(Injector):
    """The targets' own attention, in a run with all the same rows as an injecting one."""

    def attend(self, inputs, correspondence, masks):
        return attention(inputs.query, inputs.key, inputs.value, inputs.scale)


class Distrustful(Matcher):
    """Matches at random far away and trusts none of it."""

    def match(self, target, reference, masks):
        flow = torch.randint(-9, 9, (*target.shape[:3], 2)).to(target.dtype)
        return Correspondence(flow, torch.zeros(target.shape[:3]))


class Shifted(FeatureExtractor):
    """Descriptors of the target are those of the reference moved two cells right, one up."""

    def describe(self, step):
        rows = step.layout.halves * step.layout.targets
        generator = torch.Generator().manual_seed(0)
        one = torch.nn.functional.normalize(torch.randn(1, 16, 16, 32, generator=generator), dim=-1)
        reference = one.expand(rows, -1, -1, -1)
        return Features(target=reference.roll((-1, 2), dims=(1, 2)), reference=reference)


@pytest.mark.parametrize(
    ("name", "scale"), [("sd1", 1.0), ("sd1", 5.0), ("sd2", 5.0), ("sdxl", 5.0)]
)
def test_reference_equal_to_target_changes_nothing(request, name, scale):
    """Flow 0, confidence 1 and stock attention where both branches are the same."""
    pipe = request.getfixturevalue(name)
    plain = tiny_sampler(pipe, injector="none")
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    options = {"latents": noise, "guidance_scale": scale, "output_type": "latent"}
    stock = plain(PROMPT, return_trace=True, **options)
    replayed = torch.stack([noise, *(step.latents for step in stock.trace[:-1])])
    same = tiny_sampler(pipe, trajectory=Replay(replayed))
    result = same(PROMPT, return_trace=True, **options)
    matched = [step for step in result.trace if step.matched]
    assert len(matched) == 2
    for step in matched:
        assert torch.equal(step.flow, torch.zeros_like(step.flow))
        assert torch.equal(step.confidence, torch.ones_like(step.confidence))
        assert step.masks.target.max() == 1
        torch.testing.assert_close(step.masks.target, step.masks.reference, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.images, stock.images, atol=2e-4, rtol=1e-4)


def test_self_match_leaves_attention_alone():
    """AMA on its own values with flow 0 and full weight is stock attention."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 36, 8)
    inputs = attention_inputs([query, key, value] * 2, (6, 6))
    ones = torch.ones(2, 6, 6)
    matches = Correspondence(torch.zeros(2, 6, 6, 2), ones)
    out = AppearanceMatching()(inputs, matches, Masks(ones, ones))
    torch.testing.assert_close(out, attention(query, key, value))


def test_known_shift_gives_that_flow(sd1):
    """Shifted descriptors give the shift in the run itself, at the finest matched grid."""
    sampler = tiny_sampler(sd1, extractor=Shifted(), mask=NoMask())
    for step in sampler(PROMPT, return_trace=True, output_type="latent").trace[1:]:
        inside = step.flow[:, :-1, 2:]
        assert torch.equal(inside, torch.tensor([-2.0, 1.0]).expand_as(inside))
        assert step.confidence[:, :-1, 2:].min() == 1


def test_no_confidence_is_stock_attention_bit_for_bit(any_pipe):
    """With the same rows in every U-Net call, confidence 0 everywhere changes no bit."""
    layers = tiny_parts(any_pipe).injector.config.layers
    arguments = {"prompt": [PROMPT, "a {} on the snow"], "seed": [1, 2], "output_type": "latent"}
    plain = tiny_sampler(any_pipe, injector=Plain(layers=layers, start_step=1))(**arguments)
    distrustful = tiny_sampler(any_pipe, matcher=Distrustful())(**arguments)
    assert torch.equal(distrustful.images, plain.images)


def test_no_confidence_gives_the_injectors_plain_tensor():
    torch.manual_seed(0)
    q, k, v, rq, rk, rv = torch.randn(6, 2, 4, 36, 8)
    inputs = attention_inputs([q, k, v, rq, rk, rv], (6, 6))
    flow = torch.randint(-9, 9, (2, 6, 6, 2)).float()
    matches = Correspondence(flow, torch.zeros(2, 6, 6))
    ones = torch.ones(2, 6, 6)
    assert torch.equal(AppearanceMatching()(inputs, matches, Masks(ones, ones)), attention(q, k, v))


def test_injection_changes_the_image(any_pipe):
    """The other tests mean something only if a normal run differs from the baseline."""
    ours = tiny_sampler(any_pipe)(PROMPT, output_type="latent").images
    plain = tiny_sampler(any_pipe, injector="none")(PROMPT, output_type="latent").images
    assert (ours - plain).abs().mean() > 1e-3


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_injection_off_is_the_stock_pipeline(any_pipe, scale):
    sampler = tiny_sampler(any_pipe, injector="none")
    ours = sampler(PROMPT, seed=5, guidance_scale=scale, output_type="np").images
    stock = any_pipe(
        "a photo of a toy dog",
        num_inference_steps=3,
        guidance_scale=scale,
        height=128,
        width=128,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    assert ours.shape == stock.shape == (1, 128, 128, 3)
    assert abs(ours - stock).max() < 1e-4


PROMPTS = [PROMPT, "a {} on the snow", PROMPT]


@pytest.mark.parametrize("injector", ["appearance_matching", "key_value_replace"])
def test_an_image_does_not_depend_on_its_batch(sd1, injector):
    """Different prompts and seeds, all at once, in chunks of two, and alone."""
    arguments = {"output_type": "latent"}
    seeds = [4, 8, 15]
    together = tiny_sampler(sd1, injector=injector)(PROMPTS, seed=seeds, **arguments).images
    chunked = tiny_sampler(sd1, injector=injector, options={"batch_size": 2})
    torch.testing.assert_close(
        chunked(PROMPTS, seed=seeds, **arguments).images, together, atol=2e-4, rtol=1e-4
    )
    for row in (1, 2):
        alone = chunked(PROMPTS[row], seed=seeds[row], **arguments).images[0]
        torch.testing.assert_close(alone, together[row], atol=2e-4, rtol=1e-4)
    assert (together[0] - together[2]).abs().mean() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_batches_of_the_other_families(request, name):
    sampler = tiny_sampler(request.getfixturevalue(name))
    together = sampler(PROMPTS[:2], seed=[4, 8], output_type="latent").images
    for row in range(2):
        alone = sampler(PROMPTS[row], seed=4 * row + 4, output_type="latent").images[0]
        torch.testing.assert_close(alone, together[row], atol=2e-4, rtol=1e-4)


def _psnr(error: torch.Tensor, signal: torch.Tensor) -> float:
    span = float(signal.max() - signal.min())
    return 10 * math.log10(span**2 / float(error.square().mean()))


def _round_trip(denoiser, clean: torch.Tensor) -> float:
    """PSNR of a clean latent after inversion and plain DDIM with the empty prompt."""
    condition = denoiser.condition("")
    latents = DDIMInversion()(denoiser, clean)[0]
    for timestep in denoiser.timesteps:
        with torch.no_grad():
            output = denoiser.model.denoise(latents, timestep, condition)
        latents = denoiser.scheduler.step(output, timestep, latents, return_dict=False)[0]
    return _psnr(latents - clean, clean)


def _denoiser(pipe, steps: int) -> Denoiser:
    model = backbone_of(pipe)
    return Denoiser(model, model.schedule(steps, (128, 128), "DDIMScheduler"), 128, 128)


@pytest.mark.parametrize("name", ["sd1", "sd2", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_inversion_then_ddim_gives_the_reference_back(request, name, record_property):
    """More steps come closer.

    The noise that a random U-Net predicts changes wildly from step to step, unlike a trained
    one's; its output layer is scaled down to make the path as smooth as a real one.
    """
    pipe = copy.copy(request.getfixturevalue(name))
    pipe.unet = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        for parameter in pipe.unet.conv_out.parameters():
            parameter.mul_(0.02)
    clean = tiny_sampler(pipe, options={"num_inference_steps": 1}).reference().latent
    coarse, fine = (_round_trip(_denoiser(pipe, steps), clean) for steps in (4, 12))
    record_property("psnr_4_steps", coarse)
    record_property("psnr_12_steps", fine)
    print(f"{name}: {coarse:.1f} dB after 4 steps, {fine:.1f} dB after 12")
    assert fine > coarse + 3
    assert fine > 40


class GaussianModel:
    """The exact noise prediction for images from N(mean, deviation^2), no network."""

    def __init__(self, denoiser, mean=0.3, deviation=0.5):
        self.denoiser, self.mean, self.deviation = denoiser, mean, deviation

    network = None

    def encode_plain(self, prompt, height, width):
        return None

    def require_finite(self, tensor, network, what):
        return tensor

    def denoise(self, latents, timestep, condition):
        a, s = self.denoiser.level(timestep)
        return s * (latents - a * self.mean) / ((a * self.deviation) ** 2 + s**2)


def test_round_trip_of_an_exact_denoiser(sd1):
    """Where the path is known to be smooth, the error falls with the steps at least as 1 / T."""
    clean = 0.3 + 0.5 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = []
    for steps in (10, 50, 250):
        denoiser = _denoiser(sd1, steps)
        exact = replace(denoiser, model=GaussianModel(denoiser))
        scores.append(_round_trip(exact, clean))
    print(f"exact denoiser: {[round(score, 1) for score in scores]} dB after 10, 50, 250 steps")
    assert scores[1] > max(30, scores[0] + 12) and scores[2] > scores[1] + 12


def test_deterministic(sd1):
    runs = [
        tiny_sampler(sd1, matcher=CycleArgmax())(PROMPT, seed=2, output_type="latent").images
        for _ in range(2)
    ]
    assert torch.equal(*runs)
