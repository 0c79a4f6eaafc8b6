"""What every guidance keeps; see :class:`framework.interfaces.Guidance`."""

from __future__ import annotations

import torch

from framework.contracts.base import expect, expect_close
from framework.interfaces import Guidance, GuidanceInputs, Level
from framework.types import Correspondence, Masks, Reference


def random_guidance_inputs(rows: slice = slice(None)) -> GuidanceInputs:
    """Some of two targets in both halves: pairs 0 and 2 are the first target's, (B, C, h, w)."""
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
        halves=2,
        step=5,
        timestep=500.0,
        decode=lambda z: z[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3).tanh(),
        reference=Reference(torch.zeros(1, 3, 48, 40), reference[:1], reference[:1, None]),
    )


def corrects_in_the_noise_s_shape(guidance: Guidance) -> None:
    """The corrected noise has the shape of the predicted one, is finite, the same every time."""
    corrected = guidance(random_guidance_inputs())
    expect(corrected.isfinite().all(), "the corrected noise is not finite.")
    expect_close("two equal corrections", guidance(random_guidance_inputs()), corrected)


def corrects_each_target_alone(guidance: Guidance) -> None:
    """A target's correction does not depend on the other targets of its batch."""
    together = guidance(random_guidance_inputs())
    alone = guidance(random_guidance_inputs(slice(0, None, 2)))
    expect_close("the corrections of a target alone and of two", alone, together[::2], 1e-5)


CHECKS = (corrects_in_the_noise_s_shape, corrects_each_target_alone)
