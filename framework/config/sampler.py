"""Options of the sampling loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from framework.options import PartConfig, option

#: How the reference is brought to size, and how the timesteps may be spaced.
RESIZE_MODES = ("crop", "stretch", "stretch_nearest")
SPACINGS = ("leading", "linspace", "trailing")


@dataclass
class SamplerConfig(PartConfig):
    """Options of the sampling loop."""

    num_inference_steps: int = option(50, "denoising steps T", low=1, high=1000)
    guidance_scale: float = option(7.5, "classifier-free guidance; at most 1 turns it off", low=0.0)
    scheduler: str = option("DDIMScheduler", "diffusers scheduler class, or 'keep'")
    timestep_spacing: str | None = option(
        None, "how the timesteps are spaced; null: as the scheduler does", choices=(None, *SPACINGS)
    )
    scheduler_options: dict[str, Any] = option(
        {}, "further arguments of the scheduler, e.g. {use_karras_sigmas: true}"
    )
    reference_prompt: str = option("a photo of a {}", "prompt of the reference branch")
    reference_index: int = option(0, "which of the concept's images is the reference", low=0)
    resize: str = option("crop", "how the reference is brought to size", choices=RESIZE_MODES)
    height: int | None = option(None, "image height in pixels; null: the model's own", low=8)
    width: int | None = option(None, "image width in pixels; null: the model's own", low=8)
    batch_size: int = option(8, "targets denoised together", low=1)
    loop: str = option(
        "framework.sampling.loop:denoise", "the sampling loop, MODULE:FUNCTION; see that one"
    )
