"""Stable Diffusion 1.x, 2.x and XL: a U-Net with attention layers of its own for the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from framework.backbones.attention import attending, detached_attention, tapped
from framework.backbones.checks import check_components, check_weights
from framework.backbones.layers import is_cross_attention, is_self_attention
from framework.backbones.schedule import schedule_of
from framework.errors import UserError
from framework.interfaces import BACKBONES, Backbone, Condition
from framework.interfaces.layers import Attend, MapObserver, resolve
from framework.interfaces.schedule import Schedule
from framework.runs.machine import check_picture_size


@BACKBONES.register("stable_diffusion")
class StableDiffusion(Backbone):
    """Stable Diffusion 1.x and 2.x: one CLIP text encoder, four or so latent channels.

    Prompts are encoded one by one, so that none depends on its neighbours. Any VAE whose ``encode``
    gives a distribution or latents serves, the tiny one (TAESD) too.
    """

    label = "Stable Diffusion (1.x, 2.x)"
    pipelines: tuple[str, ...] = ("StableDiffusionPipeline",)  # type: ignore[misc]
    component = "unet"
    #: Components without which nothing can be drawn, or no prompt be read.
    needs: tuple[str, ...] = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")
    #: Whether the VAE overflows in float16 where its configuration says ``force_upcast``.
    vae_overflows = False

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        check_components(self, self.needs)
        check_weights(self)
        #: Whether weights are parked elsewhere, or stored in another type than they compute in.
        self.hooked = any(
            hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
            for module in self.network.modules()
        )
        config, channels = self.pipe.unet.config, int(pipe.vae.config.latent_channels)
        reasons = {
            f"its U-Net takes {config.in_channels} channels where a latent has {channels} "
            "(an inpainting or depth model)": int(config.in_channels) != channels,
            "its U-Net is conditioned on the guidance scale (a latent consistency model)": (
                getattr(config, "time_cond_proj_dim", None) is not None
            ),
        }
        for reason, applies in reasons.items():
            if applies:
                raise UserError(f"{self.describe()} is not supported: {reason}.")

    @property
    def device(self) -> torch.device:
        """Device the network computes on, also where it is parked on another meanwhile."""
        return self.pipe._execution_device if self.hooked else super().device

    @property
    def dtype(self) -> torch.dtype:
        """Data type the network computes in, whatever its weights are stored in."""
        return self.pipe.unet.dtype if self.hooked else super().dtype

    @property
    def channels(self) -> int:
        """See the base class."""
        return int(self.pipe.unet.config.in_channels)

    @property
    def image_size(self) -> int:
        """See the base class."""
        size = self.pipe.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * int(self.pipe.vae_scale_factor)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """See the base class."""
        factor = int(self.pipe.vae_scale_factor)
        for name, side in (("height", height), ("width", width)):
            if side < factor or side % factor:
                raise UserError(
                    f"{name} is {side} pixels; expected a positive multiple of {factor}."
                )
        check_picture_size(height, width)
        return height // factor, width // factor

    # ---------------------------------------------------------------- text

    @torch.no_grad()
    def encode_prompt(self, prompt: str, height: int, width: int) -> tuple[Condition, Condition]:
        """See the base class."""
        embeds, negative = self.pipe.encode_prompt(**self._asked(prompt), negative_prompt=None)
        return Condition(embeds), Condition(negative)

    def encode_texts(
        self, prompts: Sequence[str], height: int, width: int, frames: Tensor | None = None
    ) -> Condition:
        """See the base class; nothing but the text is told."""
        return Condition(self.pipe.encode_prompt(**self._asked(list(prompts), guided=False))[0])

    def _asked(self, prompt: str | list[str], guided: bool = True) -> dict[str, Any]:
        return {
            "prompt": prompt,
            "device": self.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": guided,
        }

    # ---------------------------------------------------------------- latents

    def denoise(self, latents: Tensor, timestep: Tensor | float, condition: Condition) -> Tensor:
        """See the base class."""
        added = {"added_cond_kwargs": condition.added} if condition.added else {}
        return self.network(
            latents.to(self.dtype),
            timestep,
            encoder_hidden_states=condition.embeds,
            return_dict=False,
            **added,
        )[0]

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """See the base class."""
        with self._stable_vae(self.vae_overflows) as vae:
            mean, _ = self._encoded(vae, image)
        shift, scale = self._coding
        self.require_finite(mean, vae, "The reference picture's latents")
        return ((mean - shift) * scale).to(self.dtype)

    @torch.no_grad()
    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class; a VAE marked ``force_upcast`` runs in float32 meanwhile."""
        with self._stable_vae(True) as vae:
            mean, std = self._encoded(vae, image)
        shift, scale = self._coding
        self.require_finite(mean, vae, "A picture's latents")
        return (mean.float().cpu() - shift) * scale, std.float().cpu() * scale

    def decode(self, latents: Tensor) -> Tensor:
        """See the base class."""
        shift, scale = self._coding
        with self._stable_vae(self.vae_overflows) as vae:
            scaled = (latents / scale + shift).to(vae.dtype)
            images = torch.cat([vae.decode(row[None], return_dict=False)[0] for row in scaled])
        return self.require_finite(images, vae, "The decoded pictures")

    @property
    def _coding(self) -> tuple[float, float]:
        """Shift and factor between the VAE's values and latents."""
        config = self.pipe.vae.config
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor

    def _encoded(self, vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
        """The VAE's mean and standard deviation, unscaled, (1, C, h, w) each."""
        found = vae.encode(image.to(device=self.device, dtype=vae.dtype))
        if hasattr(found, "latent_dist"):
            return found.latent_dist.mean, found.latent_dist.std
        return found.latents, torch.zeros_like(found.latents)  # AutoencoderTiny

    @contextmanager
    def _stable_vae(self, upcast: bool) -> Iterator[Any]:
        """The VAE; in float32 while used if asked for, where its half precision overflows."""
        vae = self.pipe.vae
        marked = bool(getattr(vae.config, "force_upcast", False))
        overflows = upcast and vae.dtype == torch.float16 and marked
        try:
            yield vae.to(dtype=torch.float32) if overflows else vae
        finally:
            if overflows:
                vae.to(dtype=torch.float16)

    # ---------------------------------------------------------------- layers

    def self_attentions(self, patterns: Sequence[str], what: str = "injector.layers") -> list[str]:
        """See the base class; ``attn1`` of every transformer block."""
        return list(resolve(self.network, patterns, is_self_attention, what))

    def text_attentions(self, patterns: Sequence[str], what: str = "mask.layers") -> list[str]:
        """See the base class; ``attn2`` of every transformer block."""
        return list(resolve(self.network, patterns, is_cross_attention, what))

    def attending(self, layers: Sequence[str], attend: Attend) -> AbstractContextManager[None]:
        """See the base class."""
        return attending(self.network, self._layers(layers), attend)

    def tapped(self, layers: Sequence[str], observer: MapObserver) -> AbstractContextManager[None]:
        """See the base class."""
        return tapped(self._layers(layers), observer)

    def detached_attention(self) -> AbstractContextManager[None]:
        """See the base class."""
        return detached_attention(self.network)

    def _layers(self, paths: Sequence[str]) -> dict[str, Any]:
        return {path: self.network.get_submodule(path) for path in paths}

    # ---------------------------------------------------------------- sampling

    def schedule(
        self,
        steps: int,
        size: tuple[int, int],
        scheduler: str = "keep",
        spacing: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Schedule:
        """See the base class; levels do not depend on the size."""
        return schedule_of(self.pipe.scheduler, steps, self.device, scheduler, spacing, options)


@BACKBONES.register("stable_diffusion_xl")
class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL: two text encoders, and the network is told the picture's size."""

    label = "Stable Diffusion XL"
    pipelines: tuple[str, ...] = ("StableDiffusionXLPipeline",)  # type: ignore[misc]
    needs = (*StableDiffusion.needs, "text_encoder_2", "tokenizer_2")
    vae_overflows = True

    @torch.no_grad()
    def encode_prompt(self, prompt: str, height: int, width: int) -> tuple[Condition, Condition]:
        """See the base class."""
        embeds, negative, pooled, other = self.pipe.encode_prompt(**self._asked(prompt))
        sizes = torch.tensor(
            [[height, width, 0, 0, height, width]], dtype=embeds.dtype, device=embeds.device
        )
        return (
            Condition(embeds, {"text_embeds": pooled, "time_ids": sizes}),
            Condition(negative, {"text_embeds": other, "time_ids": sizes}),
        )

    def encode_texts(
        self, prompts: Sequence[str], height: int, width: int, frames: Tensor | None = None
    ) -> Condition:
        """See the base class."""
        encoded = self.pipe.encode_prompt(**self._asked(list(prompts), guided=False))
        embeds, _, pooled, _ = encoded
        sizes = embeds.new_tensor([[height, width, 0, 0, height, width]]).repeat(len(prompts), 1)
        if frames is not None:
            sizes[:, :4] = frames.to(sizes)
        return Condition(embeds, {"text_embeds": pooled, "time_ids": sizes})
