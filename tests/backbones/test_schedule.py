"""Schedules: conversions between predictions, and what cannot be followed."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from framework.backbones.schedule import (
    FOLLOWED,
    alpha_bar,
    alpha_bars,
    final_alpha_bar,
    make_scheduler,
    schedule_of,
    timesteps_of,
)
from framework.errors import UserError
from framework.interfaces.levels import Level, from_eps, move, noisy, to_eps

CPU = torch.device("cpu")
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(**options):
    defaults = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return DDIMScheduler(**(STABLE_DIFFUSION | defaults | options))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim_step_is_diffusers_step(kind):
    scheduler = ddim(prediction_type=kind)
    times = timesteps_of(scheduler, 10, CPU)
    latents, output = torch.randn(2, 1, 4, 5, 5)
    for index in (3, 9):  # the last step goes to the final alpha
        level = Level.of_alpha_bar(alpha_bar(scheduler, times[index]))
        last = index == len(times) - 1
        following = final_alpha_bar(scheduler) if last else alpha_bar(scheduler, times[index + 1])
        eps = to_eps(output, latents, level, kind)
        ours = move(eps, latents, level, Level.of_alpha_bar(following))
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


SIGMAS = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
OPTIONS = {
    "PNDMScheduler": [{}, {"skip_prk_steps": False}, {"timestep_spacing": "trailing"}],
    "DDIMScheduler": [{}, {"timestep_spacing": "trailing"}],
    "DPMSolverMultistepScheduler": [{}, {"use_lu_lambdas": True}, {"solver_order": 3}, *SIGMAS],
    "EulerDiscreteScheduler": [{}, {"timestep_spacing": "leading"}, *SIGMAS],
    "UniPCMultistepScheduler": [{}, {"solver_order": 3}, *SIGMAS],
}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in FOLLOWED for options in OPTIONS.get(name, [{}, *SIGMAS[:1]])],
)
def test_what_a_followed_scheduler_shows_is_at_its_level(name, options, kind):
    """A model that knows the one image there is moves along a straight line in (z0, eps), which
    every solver follows exactly; each evaluation must stand on it at the level we say."""
    scheduler = make_scheduler(name, ddim(prediction_type=kind), options=options)
    assert type(scheduler).__name__ == name
    times = timesteps_of(scheduler, 10, CPU)
    levels = alpha_bars(scheduler)
    assert len(times) == len(levels) == len(scheduler.timesteps) >= 10
    assert times == sorted(times, reverse=True) and levels == sorted(levels)
    assert 0 < levels[0] < levels[-1] <= final_alpha_bar(scheduler) + 1e-6 <= 1 + 1e-6
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents, eps = noise * scheduler.init_noise_sigma, None
    # PNDM extrapolates the model's output itself, and v is not constant along the line.
    within = 0.2 if (name, kind) == ("PNDMScheduler", "v_prediction") else 2e-4
    for moment, abar in zip(scheduler.timesteps, levels, strict=True):
        shown = scheduler.scale_model_input(latents, moment)
        level = Level.of_alpha_bar(abar)
        predicted = (shown - level.a * clean) / level.s
        eps = predicted if eps is None else eps
        line = noisy(clean, eps, level)
        torch.testing.assert_close(shown, line, atol=within, rtol=1e-4)
        output = from_eps(predicted, shown, level, kind)
        latents = scheduler.step(output, moment, latents, return_dict=False)[0]
    line = noisy(clean, eps, Level.of_alpha_bar(final_alpha_bar(scheduler)))
    torch.testing.assert_close(latents, line, atol=0.2, rtol=0)


def test_levels_are_those_of_the_models_timesteps():
    for name in FOLLOWED:
        scheduler = make_scheduler(name, ddim())
        times = timesteps_of(scheduler, 20, CPU)
        expected = [alpha_bar(scheduler, time) for time in times]
        assert alpha_bars(scheduler) == pytest.approx(expected, abs=2e-3)


def test_a_schedule_holds_the_levels_of_its_evaluations():
    schedule = schedule_of(ddim(), 20, CPU, "EulerDiscreteScheduler")
    expected = [Level.of_alpha_bar(abar) for abar in alpha_bars(schedule.scheduler)]
    assert schedule.levels == expected and len(schedule.timesteps) == 20
    assert schedule.level(schedule.timesteps[3]) == expected[3]
    between = 500.25
    assert between not in schedule.timesteps
    assert schedule.level(between) == Level.of_alpha_bar(alpha_bar(schedule.scheduler, between))
    assert schedule.prediction == "epsilon" and schedule.final_level.a > expected[-1].a


def test_a_time_between_two_of_the_models():
    scheduler = ddim()
    low, between, high = (alpha_bar(scheduler, time) for time in (500, 500.5, 501))
    assert low > between > high and between == pytest.approx((low + high) / 2, rel=1e-3)
    for time in (-1, 1000, 999.5):
        with pytest.raises(UserError, match="outside the model's, 0 to 999"):
            alpha_bar(scheduler, time)


def test_timestep_spacing():
    for spacing, first in (("leading", 901), ("trailing", 999)):
        scheduler = make_scheduler("DDIMScheduler", ddim(), spacing)
        assert timesteps_of(scheduler, 10, CPU)[0] == first
    euler = make_scheduler("EulerDiscreteScheduler", ddim(), "trailing")
    assert timesteps_of(euler, 10, CPU)[:2] == [999, 899]
    for name in ("DDIMScheduler", "PNDMScheduler"):
        with pytest.raises(UserError, match="'linspace' is not supported: it moves by a fixed"):
            make_scheduler(name, ddim(), "linspace")
    with pytest.raises(UserError, match="timestep_spacing is 'trailin'.*Did you mean 'trailing'"):
        make_scheduler("DDIMScheduler", ddim(timestep_spacing="trailin"))


STOCHASTIC = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "SASolverScheduler",
    "LCMScheduler",
    "TCDScheduler",
)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_schedulers_are_refused_with_the_reason(name):
    with pytest.raises(UserError, match=f"'{name}' is not supported: it adds fresh noise.*DDIM"):
        make_scheduler(name, ddim())


def test_unsupported_schedulers_are_refused_by_name():
    with pytest.raises(UserError, match="FlowMatchEuler.* is not supported: it is for flow-match"):
        make_scheduler("FlowMatchEulerDiscreteScheduler", ddim())
    with pytest.raises(UserError, match="'EDMEulerScheduler' is not supported: its noise levels"):
        make_scheduler("EDMEulerScheduler", ddim())
    with pytest.raises(UserError, match="Did you mean 'EulerDiscreteScheduler'"):
        make_scheduler("EulerDiscretScheduler", ddim())
    with pytest.raises(UserError, match="'EulerAncestralDiscreteScheduler' is not supported"):
        make_scheduler("keep", EulerAncestralDiscreteScheduler(**STABLE_DIFFUSION))
    with pytest.raises(UserError, match="Prediction type 'flow_prediction' is not supported"):
        flow = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        make_scheduler("keep", flow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm_type": "sde-dpmsolver++"}, "adds noise in every step"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas is not supported"),
        ({"use_karas_sigmas": True}, "Unknown option of DPM.*Did you mean 'use_karras_sigmas'"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "cannot be made with"),
    ],
)
def test_unsupported_scheduler_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_scheduler("DPMSolverMultistepScheduler", ddim(), options=options)


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
