"""Every registered trajectory keeps the contract of framework.interfaces.ReferenceTrajectory."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler

from framework.backbones.choose import backbone_of
from framework.backbones.schedule import FOLLOWED
from framework.interfaces import TRAJECTORIES, Denoiser


@pytest.fixture(params=TRAJECTORIES.names())
def trajectory(request):
    return TRAJECTORIES.get(request.param)()


@pytest.fixture(scope="module")
def clean():
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def denoiser(pipe, steps=4, scheduler="DDIMScheduler"):
    model = backbone_of(pipe)
    return Denoiser(model, model.schedule(steps, (128, 128), scheduler), 128, 128)


@pytest.mark.parametrize("scheduler", FOLLOWED)
def test_shape_values_and_ends(sd1, trajectory, clean, scheduler):
    before, random = clean.clone(), torch.random.get_rng_state()
    schedule = denoiser(sd1, scheduler=scheduler)
    latents = trajectory(schedule, clean)
    assert latents.shape == (len(schedule.timesteps), 1, 4, 16, 16) and latents.dtype == clean.dtype
    assert torch.isfinite(latents).all() and not latents.requires_grad
    assert latents[0].std() < 5  # the scale the U-Net is trained on
    distance = [(latent - clean).square().mean() for latent in latents]
    assert distance[-1] <= distance[0]
    assert torch.equal(clean, before)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_last_step_is_nearly_clean(sd1, trajectory, clean):
    """The last timestep is 1, where hardly any noise is left."""
    latents = trajectory(denoiser(sd1, steps=20), clean)
    assert (latents[-1] - clean).square().mean() < 0.05


def test_deterministic(sd1, trajectory, clean):
    first, second = (trajectory(denoiser(sd1), clean) for _ in range(2))
    assert torch.equal(first, second)


def test_runs_in_the_sampler(any_pipe, trajectory):
    sampler = tiny_sampler(any_pipe, trajectory=trajectory)
    image = sampler("a photo of a {}", num_inference_steps=2, output_type="latent").images
    assert torch.isfinite(image).all()
