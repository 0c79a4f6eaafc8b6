"""Sampling with the schedulers a trajectory can follow."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_sampler

from framework.backbones.schedule import FOLLOWED
from framework.interfaces import ReferenceTrajectory
from framework.masks.cross_attention import CrossAttentionMask

PROMPT = "a photo of a {}"


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_twenty_step_solvers(sd1, name):
    options = {"num_inference_steps": 20, "scheduler": name, "height": 64, "width": 64}
    call = {"prompt": PROMPT, "output_type": "latent", "guidance_scale": 1.0}
    mask = CrossAttentionMask(resolution=2)
    ours = tiny_sampler(sd1, options=options, mask=mask)(**call).images
    plain = tiny_sampler(sd1, options=options, injector="none")(**call).images
    assert torch.isfinite(ours).all()
    assert (ours - plain).abs().mean() > 1e-3


KARRAS = {"use_karras_sigmas": True}


@pytest.mark.parametrize("kind", ["sd1", pytest.param("sd2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in FOLLOWED if name != "KDPM2DiscreteScheduler"),
        ("EulerDiscreteScheduler", KARRAS),
        pytest.param("KDPM2DiscreteScheduler", KARRAS, marks=pytest.mark.slow),
    ],
)
def test_solvers_off_are_the_stock_pipeline(request, kind, name, changes):
    import diffusers

    own = request.getfixturevalue(kind)
    pipe = copy.copy(own)
    pipe.scheduler = getattr(diffusers, name).from_config(
        own.scheduler.config, skip_prk_steps=True, **changes
    )
    ours = tiny_sampler(pipe, injector="none", options={"scheduler": "keep"})
    generator = torch.Generator().manual_seed(0)
    stock = pipe(
        "a photo of a toy dog", num_inference_steps=3, generator=generator, output_type="np"
    ).images
    assert abs(ours(PROMPT, output_type="np").images - stock).max() < 1e-4


QUICK = ("EulerDiscreteScheduler", "UniPCMultistepScheduler")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FOLLOWED],
)
def test_solvers_keep_their_state_for_each_batch_and_match_a_replayed_target(sd1, name):
    """The reference that shows what the target was shown changes nothing, and batches are alike."""

    class Recorded(ReferenceTrajectory):
        def __init__(self, latents=None):
            super().__init__()
            self.latents = latents

        def invert(self, denoiser, clean):
            return self.latents

    options = {"scheduler": name, "batch_size": 1}
    shown, call = [], {"seed": [5, 5], "output_type": "latent"}
    hook = sd1.unet.register_forward_pre_hook(lambda module, args: shown.append(args[0][:1]))
    try:
        plain = tiny_sampler(sd1, injector="none", options=options)(PROMPT, **call).images
    finally:
        hook.remove()
    assert torch.equal(plain[0], plain[1])
    shown = shown[: len(shown) // 2]
    mirrored = tiny_sampler(sd1, options=options, trajectory=Recorded(torch.stack(shown)))
    images = mirrored(PROMPT, **call).images
    torch.testing.assert_close(images, plain, atol=5e-4, rtol=1e-3)
