"""The page: the method's sampling loop, for one reference, several references, several concepts."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.sampling.call import Call, classifier_free


@torch.no_grad()
def denoise(call: Call) -> Tensor:
    """Denoise the start noise of one call's targets, with every reference taking part.

    Another loop is a function like this one, named by ``sampler.loop=MODULE:FUNCTION`` or given to
    ``Sampler(loop=...)``.

    Args:
        call: what the loop works on: start noise, schedule, network, references, conditions.

    Returns:
        Clean latents z0 of the N targets, (N, C, h, w).
    """
    denoiser, scheduler = call.denoiser, call.denoiser.scheduler
    latents = call.noise * scheduler.init_noise_sigma
    for step in call.steps():
        # The noisy targets z_t as the network sees them, (N, C, h, w), and once for each half of
        # classifier-free guidance, (B, C, h, w).
        scaled = scheduler.scale_model_input(latents, step.moment)
        noisy = call.rows(scaled, step)

        # Each reference enters the step: it is shown to the network at its own z_t^X (or what that
        # left is found in the cache), for its keys, values, features and masks.
        for run in call.runs:
            run.enter(step)

        # Matching uses features of the step before; an extractor may want those of the step itself,
        # which takes an evaluation without injection first.
        if ahead := [run for run in call.runs if run.plan.looks_ahead(step.index)]:
            plain = call.evaluate_plain(noisy, step)
            for run in ahead:
                run.describe(step, denoiser.clean(plain, noisy.detach(), step.timestep))

        # One evaluation of the network for all targets. Inside, each matched self-attention layer
        # matches the targets to the references and injects (Eqs. 3-8).
        output = call.evaluate(noisy, step)
        clean = denoiser.clean(output.detach(), noisy.detach(), step.timestep)  # z0_hat^Y

        # The features of this step, for the next one; then guidance (Eqs. 9-11).
        for run in call.runs:
            run.leave(step, clean)
            output = run.guide(step, noisy, output)

        # Classifier-free guidance, (B, C, h, w) -> (N, C, h, w), and one step of the scheduler.
        combined = classifier_free(output.detach(), call.scale, call.layout.halves)
        latents = scheduler.step(combined, step.moment, latents, return_dict=False)[0]
        call.trace.record(step, call.runs, denoiser.clean(combined, scaled, step.timestep), latents)
    return latents
