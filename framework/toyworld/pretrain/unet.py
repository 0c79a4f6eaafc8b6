"""The denoiser: a ``UNet2DConditionModel`` with Stable Diffusion's blocks and objective."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.data import masks_of
from framework.toyworld.pretrain.devices import device_of, mixed_precision
from framework.toyworld.pretrain.sheets import save_grid
from framework.toyworld.pretrain.stage import Batch, Stage, StageConfig

SHEET_PROMPTS: tuple[str, ...] = (
    "a photo of a red mug, on the grass",
    "a photo of a blue vase, on the beach",
    "a photo of a green robot, in the snow",
    "a photo of a yellow car, on a brick road",
    "a photo of a purple house, on the water",
    "a photo of a white rocket, on the moon",
    "a photo of an orange duck, on a wooden floor",
    "a photo of a pink snowman, on a purple rug",
    "a photo of a teal teapot with purple dots, on a tiled floor",
    "a photo of a brown cat, in a flower field",
    "a photo of a black train, on autumn leaves",
    "a photo of a red mushroom with white dots, on the grass",
    "a photo of a yellow lamp, wearing a red hat, on the beach",
    "a photo of a boat, with a red balloon, on the water",
    "a photo of a blue mug with yellow stripes, far away, in the snow",
    "a photo of a green duck, behind a wooden box, on the grass",
)


@dataclass
class UNetConfig(StageConfig):
    """Options of the U-Net's training.

    Attributes:
        size: Side of the pictures in pixels, 64 (first phase) or 128.
        channels: Of the three levels; a head of attention has 64.
        dropped: Fraction of captions replaced by the empty one.
        snr: Gamma of the min-SNR weighting (arXiv 2303.09556).
        object_weight: Weight of the loss on the object's pixels; 1 elsewhere.
        guidance: Of the sample sheets.
        init: Folder of a U-Net to start from; empty for a fresh one.
    """

    minutes: float = 40.0
    batch_size: int = 32
    lr: float = 1.1e-3
    warmup_steps: int = 200
    final_lr: float = 0.02
    hold: float = 0.4
    size: int = 64
    channels: tuple[int, ...] = (64, 128, 192)
    dropped: float = 0.1
    snr: float = 5.0
    object_weight: float = 2.0
    guidance: float = 4.0
    init: str = ""


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_unet(channels: tuple[int, ...], text_width: int, side: int = 32) -> UNet2DConditionModel:
    """A fresh U-Net with cross-attention to text of width ``text_width``."""
    attention, levels = "CrossAttnDownBlock2D", len(channels)
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + (attention,) * (levels - 1),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        attention_head_dim=tuple(max(1, c // 64) for c in channels),
        cross_attention_dim=text_width,
        norm_num_groups=8,
    )
    return unet.to(memory_format=torch.channels_last)


def latent_batches(
    world: RenderedWorld, latents: np.ndarray, tokenizer: CLIPTokenizer, config: UNetConfig
) -> Any:
    """Batches of latents, noise, times and newly drawn captions.

    Args:
        world: The set the latents are of.
        latents: (N, 4, side, side), scaled.
        tokenizer: The tokenizer.
        config: Options.
    """
    side = latents.shape[-1]

    def draw(rng: np.random.Generator) -> Batch:
        size = config.batch_size
        indices = np.sort(rng.integers(0, len(latents), size))
        captions = prompts.random_captions([world.scenes[i] for i in indices], rng)
        empty = rng.random(size) < config.dropped
        captions = ["" if gone else text for gone, text in zip(empty, captions, strict=True)]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        spread = (rng.permutation(size) + rng.random(size)) / size
        return {
            "latents": torch.from_numpy(latents[indices].astype(np.float32)),
            "noise": torch.randn(size, 4, side, side, generator=generator),
            "times": torch.from_numpy((spread * 1000).astype(np.int64)),
            "ids": prompts.token_ids(tokenizer, captions),
            "object": masks_of(world, indices, side),
        }

    return draw


class UNetStage(Stage):
    """Training of the U-Net on cached latents, the text encoder frozen.

    Args:
        unet: The U-Net.
        config: Options.
        make_batch: See :func:`latent_batches`.
        tokenizer: The tokenizer.
        text_encoder: The frozen text encoder.
        vae: Decodes the sample sheets.
        folder: Where the sheets go.

    Attributes:
        held_out: A batch of held-out latents to measure the average on, if any.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        config: UNetConfig,
        make_batch: Any,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        vae: AutoencoderKL | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(unet, config, make_batch)
        self.held_out: Batch | None = None
        self.tokenizer, self.folder, self.side = tokenizer, folder, config.size // 4
        self.frozen = (text_encoder.requires_grad_(False).eval(), vae)
        self.scheduler = build_scheduler()
        self.register_buffer("alphas", self.scheduler.alphas_cumprod.clone(), persistent=False)

    def is_outer(self, name: str) -> bool:
        """The layers at latents and at the time's code."""
        return name.startswith(("conv_in", "conv_out", "time_embedding.linear_1"))

    def on_fit_start(self) -> None:
        """On a CPU plain attention takes its turn: its gradient is faster than the fused one's."""
        super().on_fit_start()
        if self.device.type == "cpu":
            self.network.set_attn_processor(AttnProcessor())

    def errors(self, unet: UNet2DConditionModel, batch: Batch) -> Tensor:
        """Squared errors of the predicted noise, (B, 4, side, side)."""
        latents, noise, times = batch["latents"], batch["noise"], batch["times"]
        with torch.no_grad():
            text = self.frozen[0](input_ids=batch["ids"]).last_hidden_state
        noisy = self.scheduler.add_noise(latents, noise, times)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return (unet(noisy, times, text).sample.float() - noise).square()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the predicted noise, weighted by min-SNR and by the object's pixels."""
        c, errors = self.config, self.errors(self.network, batch)
        snr = self.alphas[batch["times"]] / (1.0 - self.alphas[batch["times"]])
        weights = 1.0 + (c.object_weight - 1.0) * batch["object"]
        weights = weights / weights.mean()
        per_image = (errors * weights).mean(dim=(1, 2, 3))
        value = (per_image * snr.clamp(max=c.snr) / snr).mean()
        return value, {"mse": errors.mean()}

    def sheet(self) -> dict[str, Any]:
        """A grid of 16 fixed prompts, and the average's error on held-out latents."""
        figures: dict[str, Any] = {}
        if self.held_out is not None:
            parts: list[Tensor] = []
            rows = len(self.held_out["times"])
            for some in torch.arange(rows).split(32):
                part = {name: value[some].to(self.device) for name, value in self.held_out.items()}
                with mixed_precision(self.device):
                    errors = self.errors(self.average, part)
                weights = part["object"] / part["object"].mean().clamp_min(1e-6)
                parts.append(torch.stack([errors.mean(), (errors * weights).mean()]))
            overall, inside = torch.stack(parts).mean(0).tolist()
            figures = {"val_mse": overall, "val_object_mse": inside}
        if self.frozen[1] is None or self.folder is None:
            return figures
        pictures = sample(
            self.average,
            *self.frozen,
            self.tokenizer,
            list(SHEET_PROMPTS),
            self.side,
            guidance=self.config.guidance,
        )
        save_grid(pictures, self.folder / f"unet_{self.global_step:06d}.png", 8)
        return figures


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    texts: list[str],
    side: int = 32,
    guidance: float = 4.0,
    steps: int = 20,
    seed: int = 0,
) -> Tensor:
    """Pictures (B, 3, 4 side, 4 side) in -1..1 of texts, by DDIM with guidance."""
    device = device_of(unet)
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps, device=device)
    ids = prompts.token_ids(tokenizer, [""] * len(texts) + texts).to(device)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(texts), 4, side, side, generator=generator).to(device)
    with mixed_precision(device):
        text = text_encoder(input_ids=ids).last_hidden_state
        for time in scheduler.timesteps:
            double = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
            without, given = unet(double, time, text).sample.float().chunk(2)
            noise = without + guidance * (given - without)
            latents = scheduler.step(noise, time, latents).prev_sample
        pictures = vae.decode(latents / vae.config.scaling_factor).sample
        return pictures.float().clamp(-1.0, 1.0).cpu()
