"""Schedules of diffusion models: which of diffusers' schedulers can be followed, and their levels.

Symbols as in the paper: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from framework.config.sampler import SPACINGS
from framework.errors import UserError, nearest, unknown_name
from framework.interfaces.levels import Level
from framework.interfaces.schedule import Schedule

#: Schedulers that are followed: at every evaluation what they show the network has the form of z_t
#: above, at a level that is known beforehand. Some keep their latents in another scale and bring
#: them to this one with ``scale_model_input``.
FOLLOWED = (
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
)
#: Why others cannot be, by a piece of their names; the first that fits is given.
REFUSED = {
    "FlowMatch": "it is for flow-matching models, whose noise levels are others than this model's",
    "FlowMap": "it is for flow-map models",
    "EDM": "its noise levels are those of an EDM model, not of discrete timesteps",
    "ConsistencyModels": "it is for consistency models",
    "Ancestral": "it adds fresh noise in every step, so a result would not follow from its start "
    "noise and the reference's latent would stand on another path",
}
REFUSED |= dict.fromkeys(("DDPM", "SDE", "SASolver", "LCM", "TCD", "RePaint"), REFUSED["Ancestral"])
#: Those that move by a fixed number of timesteps, whatever the spacing of the evaluations.
FIXED_STRIDE = ("DDIMScheduler", "PNDMScheduler")
#: Those that evaluate the network twice at some noise levels.
REPEATING = ("PNDMScheduler", "HeunDiscreteScheduler")


def make_scheduler(
    name: str,
    current: Any,
    spacing: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """A fresh scheduler for sampling; the pipeline's own is left alone.

    Args:
        name: a diffusers class name such as ``"DDIMScheduler"``, or ``"keep"`` for the pipeline's.
        current: the pipeline's scheduler, whose noise schedule and prediction type are taken.
        spacing: how the timesteps are spaced, one of :data:`SPACINGS`; None is the scheduler's own.
        options: further arguments of the scheduler's constructor, e.g. ``use_karras_sigmas``.

    Raises:
        UserError: no such scheduler or option, or one whose steps a reference trajectory cannot
            follow.
    """
    chosen = type(current).__name__ if name == "keep" else name
    _check_name(chosen)
    config = dict(current.config)
    if config.get("prediction_type") not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"Prediction type '{config.get('prediction_type')}' is not supported; expected "
            "'epsilon', 'v_prediction' or 'sample'."
        )
    if "beta_start" not in config and config.get("trained_betas") is None:
        raise UserError(
            f"The pipeline's {type(current).__name__} has no betas, so its model's noise levels "
            f"are not those of a {chosen}; such a model is not supported."
        )
    cls = getattr(diffusers, chosen)
    known = [key for key in inspect.signature(cls.__init__).parameters if key != "self"]
    # Latents are not in [-1, 1], so nothing is clipped.
    changes: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if type(current).__name__ != chosen:
        # Stable Diffusion's own values: the last step of DDIM ends at abar_0; PNDM starts plainly.
        changes |= {"set_alpha_to_one": False, "skip_prk_steps": True}
        changes |= {"steps_offset": 1} if chosen in FIXED_STRIDE else {}
    changes = {key: value for key, value in changes.items() if key in known}
    given = dict(options or {}) | ({} if spacing is None else {"timestep_spacing": spacing})
    for key in given:
        if key not in known:
            raise unknown_name(f"option of {chosen}", str(key), known)
    # As keywords: diffusers drops from the mapping what stood at another class's default.
    try:
        scheduler = cls.from_config(config, **(changes | given))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"Scheduler {chosen} cannot be made with {given}: {error}") from error
    _check_followed(scheduler)
    _check_end(scheduler)
    return scheduler


def _check_end(scheduler: Any) -> None:
    """Refuse a schedule that ends in pure noise for a model that predicts the noise."""
    config = scheduler.config
    if config.prediction_type == "epsilon" and float(scheduler.alphas_cumprod[-1]) < 1e-6:
        raise UserError(
            "The noise schedule has zero terminal signal (rescale_betas_zero_snr), and the model "
            "predicts 'epsilon', which says nothing of the picture there. Set "
            "rescale_betas_zero_snr to False, or prediction_type to what the model was trained "
            "for, in the pipeline's scheduler."
        )


def _check_name(chosen: str) -> None:
    if chosen in FOLLOWED:
        return
    reasons = [reason for piece, reason in REFUSED.items() if piece in chosen]
    reason = reasons[0] if reasons else "its steps are not known to follow the noise levels of z_t"
    hint = "" if hasattr(diffusers, chosen) else nearest(chosen, FOLLOWED)
    raise UserError(
        f"Scheduler '{chosen}' is not supported: {reason}; the reference trajectory needs latents "
        f"of the form sqrt(abar) z0 + sqrt(1 - abar) eps at every step.{hint} "
        f"Use one of: {', '.join(FOLLOWED)}."
    )


def _check_followed(scheduler: Any) -> None:
    """Refuse options under which a step's latent is random or not at its timestep's level."""
    config, name = scheduler.config, type(scheduler).__name__
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise UserError(
            f"Scheduler algorithm_type '{config.algorithm_type}' is not supported: it adds noise "
            "in every step, so a result would not follow from its start noise. Use 'dpmsolver++'."
        )
    if config.get("use_flow_sigmas"):
        raise UserError(
            "Scheduler option use_flow_sigmas is not supported: it is for flow-matching models. "
            "Set it to False."
        )
    spacing = config.get("timestep_spacing")
    if spacing is not None and spacing not in SPACINGS:
        raise UserError(
            f"timestep_spacing is {spacing!r}; expected one of {', '.join(SPACINGS)}."
            f"{nearest(str(spacing), SPACINGS)}"
        )
    if name in FIXED_STRIDE and spacing == "linspace":
        raise UserError(
            f"{name} with timestep_spacing 'linspace' is not supported: it moves by a fixed number "
            "of timesteps, which is not the distance of the evaluations then, so that latents are "
            "not at the noise level the network is told. Use 'leading' or 'trailing'."
        )


def alpha_bars(scheduler: Any) -> list[float]:
    """abar in [0, 1) of what each evaluation shows the network; the timesteps must be set.

    Read off the scheduler's own noise levels where it keeps them (they may lie between the model's
    timesteps, as Karras's do), else off its timesteps.
    """
    count = len(scheduler.timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        return [alpha_bar(scheduler, int(time)) for time in scheduler.timesteps]
    between = getattr(scheduler, "sigmas_interpol", None)  # of every second evaluation
    shown = [
        between[index] if between is not None and index % 2 else sigmas[index]
        for index in range(count)
    ]
    return [1 / (1 + float(sigma) ** 2) for sigma in shown]


def alpha_bar(scheduler: Any, timestep: float) -> float:
    """abar_t in (0, 1) of a diffusion time; between two of the model's, interpolated as sigmas are.

    Raises:
        UserError: the model has no such time.
    """
    table = scheduler.alphas_cumprod
    low = math.floor(timestep)
    if not 0 <= timestep <= len(table) - 1:
        raise UserError(f"Diffusion time {timestep} is outside the model's, 0 to {len(table) - 1}.")
    if low == timestep:
        return float(table[low])
    logs = [0.5 * math.log((1 - float(a)) / float(a)) for a in (table[low], table[low + 1])]
    sigma = math.exp(logs[0] + (timestep - low) * (logs[1] - logs[0]))
    return 1 / (1 + sigma**2)


def final_alpha_bar(scheduler: Any) -> float:
    """abar at which sampling ends, in (0, 1]; the timesteps must be set."""
    final = getattr(scheduler, "final_alpha_cumprod", None)
    if final is not None:
        return float(final)
    return float(1 / (1 + scheduler.sigmas[-1] ** 2))


def timesteps_of(scheduler: Any, steps: int, device: torch.device) -> list[float]:
    """Set the number of steps and return the diffusion time of every evaluation, noisiest first.

    One evaluation a step, but for PNDM (one more), Heun and KDPM2 (nearly two a step). Times are
    integers where the scheduler's are.

    Raises:
        UserError: the model has not that many timesteps.
    """
    name, trained = type(scheduler).__name__, int(scheduler.config.num_train_timesteps)
    if steps <= trained:
        try:
            scheduler.set_timesteps(steps, device=device)
        except (ValueError, IndexError, RuntimeError) as error:
            raise UserError(f"{name} cannot take {steps} step(s): {error}") from error
        times = [float(time) for time in scheduler.timesteps]
        if times and min(times) >= 0 and max(times) < trained and _descends(name, scheduler):
            return [int(time) if time == int(time) else time for time in times]
    raise UserError(
        f"num_inference_steps is {steps}, more than {name} can take distinct steps of the model's "
        f"{trained} timesteps; use fewer."
    )


def _descends(name: str, scheduler: Any) -> bool:
    """Whether noise falls from each evaluation to the next."""
    levels = alpha_bars(scheduler)
    pairs = list(zip(levels, levels[1:], strict=False))
    if name in REPEATING:
        return all(earlier <= later for earlier, later in pairs)
    return all(earlier < later for earlier, later in pairs)


def schedule_of(
    current: Any,
    steps: int,
    device: torch.device,
    scheduler: str = "keep",
    spacing: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Schedule:
    """A diffusion model's schedule under one of diffusers' schedulers.

    Args:
        current: the pipeline's own scheduler.
        steps: how many steps.
        device: of the timesteps.
        scheduler: see :func:`make_scheduler`, as the other two.
        spacing: likewise.
        options: likewise.

    Raises:
        UserError: the scheduler cannot be followed, or takes no such options or steps.
    """
    made = make_scheduler(scheduler, current, spacing, options)
    times = timesteps_of(made, steps, device)
    return Schedule(
        scheduler=made,
        timesteps=times,
        levels=[Level.of_alpha_bar(abar) for abar in alpha_bars(made)],
        final_level=Level.of_alpha_bar(final_alpha_bar(made)),
        level_at=lambda time: Level.of_alpha_bar(alpha_bar(made, time)),
        prediction=str(made.config.prediction_type),
    )
