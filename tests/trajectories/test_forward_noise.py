"""The reference noised to each step."""

from __future__ import annotations

import torch
from tiny import tiny_sampler

from framework.trajectories.forward_noise import ForwardNoise
from framework.trajectories.null import NullTrajectory


def test_every_step_has_the_signal_and_the_one_noise(sd1):
    sampler = tiny_sampler(sd1, trajectory=ForwardNoise(seed=3))
    denoiser, reference = sampler._denoiser(3), sampler.reference()
    noises = []
    for latents, timestep in zip(reference.trajectory, denoiser.timesteps, strict=True):
        level = denoiser.level(timestep)
        noises.append((latents - level.a * reference.latent) / level.s)
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=1e-3, rtol=1e-3)
    assert 0.9 < noises[0].std() < 1.1


def test_its_noise_is_never_a_targets(sd1):
    """Else the reference would start from the same noise as the image of the same seed."""
    clean = torch.zeros(1, 4, 16, 16)
    denoiser = tiny_sampler(sd1)._denoiser(3)
    mine = ForwardNoise(seed=0)(denoiser, clean)[0].flatten()
    for seed in (0, 1):
        theirs = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)).flatten()
        assert torch.corrcoef(torch.stack([mine, theirs]))[0, 1].abs() < 0.15
    assert not torch.equal(ForwardNoise(seed=1)(denoiser, clean)[0].flatten(), mine)


def test_null_is_the_clean_latent_at_every_step(sd1):
    reference = tiny_sampler(sd1, trajectory=NullTrajectory()).reference()
    assert all(torch.equal(latents, reference.latent) for latents in reference.trajectory)
