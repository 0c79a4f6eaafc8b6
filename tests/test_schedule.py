"""Schedules: conversions between predictions, and what cannot be followed."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from framework.errors import UserError
from framework.schedule import (
    FOLLOWED,
    alpha_bar,
    clean_from,
    ddim_step,
    final_alpha_bar,
    from_eps,
    make_scheduler,
    predicted_clean,
    timesteps_of,
    to_eps,
)

CPU = torch.device("cpu")
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(**options):
    defaults = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return DDIMScheduler(**(STABLE_DIFFUSION | defaults | options))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_conversions_agree_with_each_other(kind):
    clean, eps = torch.randn(2, 3, 4, 5, 5)
    abar = 0.3
    latents = abar**0.5 * clean + (1 - abar) ** 0.5 * eps
    output = {
        "epsilon": eps,
        "v_prediction": abar**0.5 * eps - (1 - abar) ** 0.5 * clean,
        "sample": clean,
    }[kind]
    torch.testing.assert_close(to_eps(output, latents, abar, kind), eps)
    torch.testing.assert_close(from_eps(eps, latents, abar, kind), output)
    torch.testing.assert_close(clean_from(output, latents, abar, kind), clean)
    torch.testing.assert_close(predicted_clean(eps, latents, abar), clean)


def test_zero_terminal_snr_has_a_clean_prediction():
    latents, output = torch.randn(2, 1, 4, 2, 2)
    torch.testing.assert_close(clean_from(output, latents, 0.0, "v_prediction"), -output)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim_step_is_diffusers_step(kind):
    scheduler = ddim(prediction_type=kind)
    times = timesteps_of(scheduler, 10, CPU)
    latents, output = torch.randn(2, 1, 4, 5, 5)
    for index in (3, 9):  # the last step goes to the final alpha
        abar = alpha_bar(scheduler, times[index])
        last = index == len(times) - 1
        following = final_alpha_bar(scheduler) if last else alpha_bar(scheduler, times[index + 1])
        ours = ddim_step(to_eps(output, latents, abar, kind), latents, abar, following)
        torch.testing.assert_close(
            ours, scheduler.step(output, times[index], latents).prev_sample, atol=1e-5, rtol=1e-5
        )


def test_timesteps_and_final_alpha_are_stable_diffusions():
    scheduler = make_scheduler("DDIMScheduler", EulerDiscreteScheduler(**STABLE_DIFFUSION))
    assert timesteps_of(scheduler, 50, CPU)[:2] == [981, 961]
    assert timesteps_of(scheduler, 50, CPU)[-1] == 1
    assert final_alpha_bar(scheduler) == alpha_bar(scheduler, 0) == pytest.approx(0.99915)


def test_clipping_at_its_default_is_turned_off():
    """diffusers ignores changes to values that stood at their defaults unless told by keyword."""
    scheduler = make_scheduler("DDIMScheduler", DDIMScheduler())
    assert not scheduler.config.clip_sample and not scheduler.config.thresholding


def test_a_ddim_of_the_pipeline_keeps_its_own_offset_and_end():
    own = ddim(steps_offset=0, set_alpha_to_one=True, clip_sample=True)
    scheduler = make_scheduler("keep", own)
    assert scheduler is not own
    assert timesteps_of(scheduler, 10, CPU)[-1] == 0 and final_alpha_bar(scheduler) == 1
    assert not scheduler.config.clip_sample and own.config.clip_sample


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed_schedulers(name):
    """Latents have unit scale at the start, and the signal level is that of the timestep."""
    scheduler = make_scheduler(name, ddim())
    assert type(scheduler).__name__ == name and scheduler.init_noise_sigma == 1
    times = timesteps_of(scheduler, 20, CPU)
    assert len(set(times)) == 20 and times == sorted(times, reverse=True)
    assert 0 < final_alpha_bar(scheduler) <= 1
    assert final_alpha_bar(scheduler) >= alpha_bar(scheduler, times[-1])
    if hasattr(scheduler, "sigmas"):
        levels = 1 / (1 + scheduler.sigmas[:-1] ** 2)
        expected = torch.tensor([alpha_bar(scheduler, time) for time in times])
        torch.testing.assert_close(levels.float(), expected, atol=1e-4, rtol=1e-3)


def test_unsupported_schedulers_are_refused_by_name():
    for name in ("EulerDiscreteScheduler", "LMSDiscreteScheduler", "NoSuchScheduler"):
        with pytest.raises(UserError, match=f"'{name}' is not supported: .*DDIMScheduler"):
            make_scheduler(name, ddim())
    with pytest.raises(UserError, match="'EulerDiscreteScheduler' is not supported"):
        make_scheduler("keep", EulerDiscreteScheduler(**STABLE_DIFFUSION))
    with pytest.raises(UserError, match="Prediction type 'flow_prediction' is not supported"):
        flow = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        make_scheduler("keep", flow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm_type": "sde-dpmsolver++"}, "adds noise in every step"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is not supported: its noise levels"),
        ({"use_lu_lambdas": True}, "use_lu_lambdas is not supported"),
    ],
)
def test_unsupported_scheduler_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_scheduler("keep", DPMSolverMultistepScheduler(**STABLE_DIFFUSION, **options))


@pytest.mark.parametrize("steps", [1000, 5000])
def test_too_many_steps_are_refused(steps):
    with pytest.raises(UserError, match=f"num_inference_steps is {steps}, more than DDIM"):
        timesteps_of(ddim(), steps, CPU)
    assert len(timesteps_of(ddim(), 999, CPU)) == 999


def test_a_scheduler_is_fresh_every_time():
    current = ddim()
    first, second = (make_scheduler("keep", current) for _ in range(2))
    assert first is not second and first is not current
    assert isinstance(first, diffusers.DDIMScheduler)
