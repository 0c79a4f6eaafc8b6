"""A sampling loop of one's own: every matched step is evaluated twice.

The first evaluation matches with the features of the step before, as ever; the second with those
that the first one left, so it matches what it draws. Named by ``sampler.loop=twice:denoise``.
"""

from __future__ import annotations

from torch import Tensor

from framework.sampling.call import Call, classifier_free


def denoise(call: Call) -> Tensor:
    """Clean latents (N, C, h, w); see :func:`framework.sampling.loop.denoise`."""
    denoiser, scheduler = call.denoiser, call.denoiser.scheduler
    latents = call.noise * scheduler.init_noise_sigma
    for step in call.steps():
        scaled = scheduler.scale_model_input(latents, step.moment)
        noisy = call.rows(scaled, step)
        for run in call.runs:
            run.enter(step)

        output = call.evaluate(noisy, step)
        clean = denoiser.clean(output.detach(), noisy.detach(), step.timestep)
        if matched := [run for run in call.runs if run.plan.matches(step.index)]:
            for run in matched:
                run.describe(step, clean)
            output = call.evaluate(noisy, step)
            clean = denoiser.clean(output.detach(), noisy.detach(), step.timestep)

        for run in call.runs:
            run.leave(step, clean)
            output = run.guide(step, noisy, output)
        combined = classifier_free(output.detach(), call.scale, call.layout.halves)
        latents = scheduler.step(combined, step.moment, latents, return_dict=False)[0]
        call.trace.record(step, call.runs, denoiser.clean(combined, scaled, step.timestep), latents)
    return latents
