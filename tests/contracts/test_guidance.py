"""Every registered guidance keeps the contract of framework.interfaces.Guidance."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler

from framework.interfaces import GUIDANCE, GuidanceInputs, Level
from framework.types import Correspondence, Masks


@pytest.fixture(params=GUIDANCE.names())
def guidance(request):
    return GUIDANCE.get(request.param)()


def inputs(rows=slice(None), halves=2):
    generator = torch.Generator().manual_seed(0)
    latents, reference = torch.randn(2, 4, 4, 6, 5, generator=generator)
    flow = torch.randint(-1, 2, (4, 6, 5, 2), generator=generator).float()
    mask, confidence = torch.rand(2, 4, 6, 5, generator=generator)
    latents = latents[rows].clone().requires_grad_()
    return GuidanceInputs(
        latents=latents,
        eps=0.3 * latents.tanh(),
        level=Level.of_alpha_bar(0.4),
        reference_clean=reference[rows],
        correspondence=Correspondence(flow[rows], confidence[rows]),
        masks=Masks(mask[rows], mask[rows]),
        halves=halves,
    )


def test_shape_and_values(guidance):
    eps = guidance(inputs())
    assert eps.shape == (4, 4, 6, 5) and torch.isfinite(eps).all()
    assert torch.equal(guidance(inputs()), eps)


def test_a_target_does_not_depend_on_its_batch(guidance):
    """Pairs 0 and 2 are the two halves of the first target."""
    together = guidance(inputs())
    torch.testing.assert_close(guidance(inputs(slice(0, None, 2))), together[::2])


def test_runs_in_the_sampler(sd1, guidance):
    sampler = tiny_sampler(sd1, guidance=guidance)
    image = sampler("a photo of a {}", output_type="latent").images
    assert torch.isfinite(image).all()
