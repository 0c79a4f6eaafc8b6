"""A diffusers text-to-image pipeline, seen through the few calls the sampler needs.

Everything that differs between families (text encoders, micro-conditioning) is here and nowhere
else. The pipeline is used, never changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from framework.errors import UserError

FAMILIES: dict[str, type] = {
    "Stable Diffusion (1.x, 2.x)": StableDiffusionPipeline,
    "Stable Diffusion XL": StableDiffusionXLPipeline,
}


@dataclass(frozen=True)
class Condition:
    """Text condition of some rows.

    Attributes:
        embeds: (rows, tokens, width), what cross-attention sees.
        added: further conditioning by name (SDXL's pooled text and sizes), each (rows, ...).
    """

    embeds: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def stack(conditions: list[Condition]) -> Condition:
        """Concatenate along the rows."""
        names = conditions[0].added
        return Condition(
            torch.cat([condition.embeds for condition in conditions]),
            {
                name: torch.cat([condition.added[name] for condition in conditions])
                for name in names
            },
        )

    def map(self, function: Any) -> Condition:
        """Apply a function to every tensor."""
        return Condition(
            function(self.embeds), {name: function(value) for name, value in self.added.items()}
        )


class TextToImageModel:
    """Prompt encoding, denoising and latent coding of one pipeline.

    Args:
        pipe: a :class:`StableDiffusionPipeline` or :class:`StableDiffusionXLPipeline`.

    Raises:
        UserError: the pipeline belongs to a family that is not supported.
    """

    def __init__(self, pipe: Any) -> None:
        if not isinstance(pipe, tuple(FAMILIES.values())):
            raise UserError(
                f"{type(pipe).__name__} is not supported: its denoiser is not a U-Net with "
                "separate self-attention layers, or is conditioned differently. "
                f"Supported: {', '.join(FAMILIES)}."
            )
        self.pipe = pipe
        self.is_xl = isinstance(pipe, StableDiffusionXLPipeline)
        self._check_unet()

    def _check_unet(self) -> None:
        """Refuse U-Nets whose input or condition is more than noisy latents and text."""
        config, channels = self.unet.config, int(self.pipe.vae.config.latent_channels)
        reasons = {
            f"its U-Net takes {config.in_channels} channels where a latent has {channels} "
            "(an inpainting or depth model)": int(config.in_channels) != channels,
            "its U-Net is conditioned on the guidance scale (a latent consistency model)": (
                getattr(config, "time_cond_proj_dim", None) is not None
            ),
            "its U-Net is compiled, and attention is replaced inside; build the sampler with the "
            "uncompiled U-Net": hasattr(self.unet, "_orig_mod")
            or getattr(self.unet, "_compiled_call_impl", None) is not None,
        }
        for reason, applies in reasons.items():
            if applies:
                raise UserError(
                    f"This {type(self.pipe).__name__} is not supported: {reason}. "
                    f"Supported: {', '.join(FAMILIES)}."
                )

    @property
    def unet(self) -> Any:
        """The denoising network."""
        return self.pipe.unet

    @property
    def device(self) -> torch.device:
        """Device of the U-Net."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the U-Net."""
        return next(self.unet.parameters()).dtype

    @property
    def image_size(self) -> int:
        """Native image side in pixels."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * int(self.pipe.vae_scale_factor)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent grid (h, w) of an image.

        Raises:
            UserError: a side is not a positive multiple of the model's pixel step.
        """
        factor = int(self.pipe.vae_scale_factor)
        for name, side in (("height", height), ("width", width)):
            if side < factor or side % factor:
                raise UserError(
                    f"{name} is {side} pixels; expected a positive multiple of {factor}."
                )
        return height // factor, width // factor

    @torch.no_grad()
    def encode_prompt(self, prompt: str, height: int, width: int) -> tuple[Condition, Condition]:
        """Conditional and unconditional (empty prompt) text condition of one prompt, one row each.

        Prompts are encoded one by one so that none depends on its neighbours.
        """
        arguments = {
            "prompt": prompt,
            "device": self.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": True,
        }
        if not self.is_xl:
            embeds, negative = self.pipe.encode_prompt(**arguments, negative_prompt=None)
            return Condition(embeds), Condition(negative)
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(**arguments)
        sizes = torch.tensor(
            [[height, width, 0, 0, height, width]], dtype=embeds.dtype, device=embeds.device
        )
        return (
            Condition(embeds, {"text_embeds": pooled, "time_ids": sizes}),
            Condition(negative, {"text_embeds": negative_pooled, "time_ids": sizes}),
        )

    def encode_plain(self, prompt: str, height: int, width: int) -> Condition:
        """Condition of a prompt as a text of its own; the empty prompt included.

        SDXL's zeroed negative embedding is *not* the empty prompt; the reference's inversion uses
        the same condition as the unconditional half of sampling, whichever that is.
        """
        conditional, unconditional = self.encode_prompt(prompt, height, width)
        return unconditional if prompt == "" else conditional

    def denoise(self, latents: Tensor, timestep: Tensor | float, condition: Condition) -> Tensor:
        """One U-Net evaluation, (rows, C, h, w) -> (rows, C, h, w), in the prediction type of the
        checkpoint."""
        added = {"added_cond_kwargs": condition.added} if condition.added else {}
        return self.unet(
            latents.to(self.dtype),
            timestep,
            encoder_hidden_states=condition.embeds,
            return_dict=False,
            **added,
        )[0]

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """Image (1, 3, H_px, W_px) in [-1, 1] -> scaled posterior mean z0, (1, C, h, w)."""
        with self._stable_vae() as vae:
            image = image.to(device=self.device, dtype=vae.dtype)
            latent = vae.encode(image).latent_dist.mean
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return ((latent - shift) * vae.config.scaling_factor).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, C, h, w) -> images (n, 3, H_px, W_px), about [-1, 1], one by one so that an
        image does not depend on the batch and memory stays that of one image."""
        with self._stable_vae() as vae:
            shift = getattr(vae.config, "shift_factor", None) or 0.0
            scaled = (latents / vae.config.scaling_factor + shift).to(vae.dtype)
            return torch.cat([vae.decode(row[None], return_dict=False)[0] for row in scaled])

    @contextmanager
    def _stable_vae(self) -> Iterator[Any]:
        """The VAE; in float32 while used where its half precision overflows, as in SDXL's."""
        vae = self.pipe.vae
        overflows = self.is_xl and vae.dtype == torch.float16 and vae.config.force_upcast
        try:
            yield vae.to(dtype=torch.float32) if overflows else vae
        finally:
            if overflows:
                vae.to(dtype=torch.float16)

    def to_output(self, latents: Tensor, output_type: str) -> Any:
        """Latents -> what ``output_type`` names; see :class:`framework.types.SamplerOutput`."""
        if output_type == "latent":
            return latents
        with torch.no_grad():
            images = self.decode(latents)
        return self.pipe.image_processor.postprocess(images.detach(), output_type=output_type)
