"""The sampling schedule: which schedulers can be followed, and conversions between predictions.

Symbols as in the paper: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from framework.errors import UserError

#: Schedulers whose latent has the form of z_t above, so that the trajectory gives what they show
#: the U-Net at each step.
FOLLOWED = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)


def make_scheduler(name: str, current: Any) -> Any:
    """A fresh scheduler for sampling; the pipeline's own is left alone.

    Args:
        name: a diffusers class name such as ``"DDIMScheduler"``, or ``"keep"`` for the pipeline's.
        current: the pipeline's scheduler, whose noise schedule and prediction type are taken.

    Raises:
        UserError: no such scheduler, or one whose steps a reference trajectory cannot follow.
    """
    chosen = type(current).__name__ if name == "keep" else name
    if chosen not in FOLLOWED:
        raise UserError(
            f"Scheduler '{chosen}' is not supported: the reference trajectory needs latents of the "
            f"form sqrt(abar) z0 + sqrt(1 - abar) eps at every step. "
            f"Use one of: {', '.join(FOLLOWED)}."
        )
    config = dict(current.config)
    if config.get("prediction_type") not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"Prediction type '{config.get('prediction_type')}' is not supported; expected "
            "'epsilon', 'v_prediction' or 'sample'."
        )
    changes: dict[str, Any] = {}
    if chosen == "DDIMScheduler":
        changes = {"clip_sample": False, "thresholding": False}  # latents are not in [-1, 1]
        if type(current).__name__ != chosen:
            # Stable Diffusion's own values: the last step ends at abar_0.
            changes |= {"set_alpha_to_one": False, "steps_offset": 1}
    # As keywords: diffusers drops from the mapping what stood at another class's default.
    scheduler = getattr(diffusers, chosen).from_config(config, **changes)
    _check_followed(scheduler)
    return scheduler


def _check_followed(scheduler: Any) -> None:
    """Refuse options under which a step's latent is random or between two timesteps."""
    config = scheduler.config
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise UserError(
            f"Scheduler algorithm_type '{config.algorithm_type}' is not supported: it adds noise "
            "in every step, so a result would not follow from its start noise. Use 'dpmsolver++'."
        )
    between = ("karras", "exponential", "beta", "flow")
    for name in [f"use_{kind}_sigmas" for kind in between] + ["use_lu_lambdas"]:
        if config.get(name):
            raise UserError(
                f"Scheduler option {name} is not supported: its noise levels lie between the "
                "model's timesteps, where the reference trajectory has no latent. Set it to False, "
                "or use DDIMScheduler."
            )


def alpha_bar(scheduler: Any, timestep: int) -> float:
    """abar_t in (0, 1) of a diffusion time."""
    return float(scheduler.alphas_cumprod[int(timestep)])


def final_alpha_bar(scheduler: Any) -> float:
    """abar at which sampling ends, in (0, 1]; the timesteps must be set."""
    final = getattr(scheduler, "final_alpha_cumprod", None)
    if final is not None:
        return float(final)
    return float(1 / (1 + scheduler.sigmas[-1] ** 2))


def to_eps(output: Tensor, latents: Tensor, abar: float, prediction_type: str) -> Tensor:
    """Noise eps from a model output of any prediction type; shapes are equal."""
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return abar**0.5 * output + (1 - abar) ** 0.5 * latents
    return (latents - abar**0.5 * output) / (1 - abar) ** 0.5


def from_eps(eps: Tensor, latents: Tensor, abar: float, prediction_type: str) -> Tensor:
    """Inverse of :func:`to_eps`."""
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "v_prediction":
        return (eps - (1 - abar) ** 0.5 * latents) / abar**0.5
    return (latents - (1 - abar) ** 0.5 * eps) / abar**0.5


def predicted_clean(eps: Tensor, latents: Tensor, abar: float) -> Tensor:
    """z0_hat = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
    return (latents - (1 - abar) ** 0.5 * eps) / abar**0.5


def clean_from(output: Tensor, latents: Tensor, abar: float, prediction_type: str) -> Tensor:
    """z0_hat from a model output of any prediction type; defined at abar = 0 where the type is."""
    if prediction_type == "epsilon":
        return predicted_clean(output, latents, abar)
    if prediction_type == "v_prediction":
        return abar**0.5 * latents - (1 - abar) ** 0.5 * output
    return output


def ddim_step(eps: Tensor, latents: Tensor, abar: float, abar_next: float) -> Tensor:
    """Deterministic DDIM move from abar to abar_next (either direction)."""
    clean = predicted_clean(eps, latents, abar)
    return abar_next**0.5 * clean + (1 - abar_next) ** 0.5 * eps


def timesteps_of(scheduler: Any, steps: int, device: torch.device) -> list[int]:
    """Set the number of steps and return the T diffusion times, noisiest first.

    Raises:
        UserError: the model has not that many timesteps.
    """
    trained = int(scheduler.config.num_train_timesteps)
    if steps <= trained:
        scheduler.set_timesteps(steps, device=device)
        times = [int(t) for t in scheduler.timesteps]
        if len(set(times)) == len(times) == steps and max(times) < trained:
            return times
    raise UserError(
        f"num_inference_steps is {steps}, more than {type(scheduler).__name__} can take distinct "
        f"steps of the model's {trained} timesteps; use fewer."
    )
