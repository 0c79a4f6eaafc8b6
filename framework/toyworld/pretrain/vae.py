"""The autoencoder: ``AutoencoderKL`` with 4 latent channels at a quarter of the resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain.data import as_pictures, pictures_of
from framework.toyworld.pretrain.devices import device_of, mixed_precision
from framework.toyworld.pretrain.sheets import save_grid
from framework.toyworld.pretrain.stage import Batch, Stage, StageConfig


@dataclass
class VAEConfig(StageConfig):
    """Options of the autoencoder's training.

    Attributes:
        channels: Of the levels at full, half and quarter resolution.
        crop: Side of the training crops, pixels.
        half: Fraction of a batch that is crops of half-size renders.
        kl: Weight of the latents' divergence from a standard normal, a mean over elements.
        edges: Weight of the error of the pictures' gradients.
        squared: Weight of the squared error beside the absolute one.
        smooth: Fraction of the steps that decode averaged latents to the averaged picture, so
            that latents behave as pictures under change of size (EQ-VAE, arXiv 2502.09509).
        colour: Weight of telling the mean colour of each cell from its latents by a linear map (not
            kept): grounds the latents, so that a colour does not depend on its surroundings.
        init: Folder of an autoencoder to start from; empty for a fresh one.
        decoder_only: Trains the decoder on the frozen encoder's latents.
    """

    minutes: float = 13.0
    batch_size: int = 16
    lr: float = 2e-3
    ema: float = 0.998
    weight_decay: float = 1e-4
    channels: tuple[int, ...] = (32, 64, 96)
    crop: int = 64
    half: float = 0.375
    kl: float = 1e-4
    edges: float = 0.5
    squared: float = 2.0
    smooth: float = 0.2
    colour: float = 2.0
    init: str = ""
    decoder_only: bool = False


def build_vae(channels: tuple[int, ...] = (32, 64, 96), groups: int = 4) -> AutoencoderKL:
    """A fresh autoencoder; its log-variances begin at -6, for with 0 it hardly learns.

    Few groups: with two channels each, normalisation would take the colour away.
    """
    levels = len(channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=groups,
        sample_size=128,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -6.0
        vae.quant_conv.weight[4:] *= 0.1
    return vae.to(memory_format=torch.channels_last)


def crop_batches(world: RenderedWorld, config: VAEConfig) -> Any:
    """Batches of crops ``{"pictures": (B, 3, crop, crop)}``, some of half-size renders."""

    def draw(rng: np.random.Generator) -> Batch:
        side, crop = world.images.shape[1], config.crop
        indices = rng.integers(0, len(world), config.batch_size)
        halves = int(round(config.half * config.batch_size))
        small = pictures_of(world, indices[:halves], max(crop, side // 2))
        crops = []
        for index in indices[halves:]:
            y, x = rng.integers(0, side - crop + 1, 2)
            crops.append(world.images[index, y : y + crop, x : x + crop])
        pictures = torch.cat([small[..., :crop, :crop], as_pictures(np.stack(crops))])
        flips = torch.from_numpy(rng.random(len(pictures)) < 0.5)[:, None, None, None]
        pictures = torch.where(flips, pictures.flip(-1), pictures)
        return {"pictures": pictures.contiguous(memory_format=torch.channels_last)}

    return draw


class VAEStage(Stage):
    """Training of the autoencoder.

    Args:
        vae: The autoencoder.
        config: Options.
        world: Training renders.
        validation: Held-out renders for the sample sheets.
        folder: Where the sheets go.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        config: VAEConfig,
        world: RenderedWorld,
        validation: RenderedWorld | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(vae, config, crop_batches(world, config))
        self.validation, self.folder = validation, folder
        if config.decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        else:
            self.heads = nn.ModuleDict({"colour": nn.Conv2d(4, 3, 1)})

    def is_outer(self, name: str) -> bool:
        """The layers at pixels and at latents."""
        return any(part in name for part in ("conv_in", "conv_out", "quant_conv"))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction (absolute, squared, edges) and divergence."""
        c, pictures = self.config, batch["pictures"]
        with torch.set_grad_enabled(not c.decoder_only):
            posterior = self.network.encode(pictures).latent_dist
        latents = posterior.mode() if c.decoder_only else posterior.sample()
        if not c.decoder_only and torch.rand(()) < c.smooth:
            latents, pictures = F.avg_pool2d(latents, 2), F.avg_pool2d(pictures, 2)
        error = self.network.decode(latents).sample.float() - pictures
        absolute, squared = error.abs().mean(), error.square().mean()
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        value = absolute + c.squared * squared + c.edges * edges
        figures = {"psnr": -10.0 * torch.log10(squared / 4.0)}
        if not c.decoder_only:
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
            colour = F.adaptive_avg_pool2d(pictures, latents.shape[-2:])
            colour = (self.heads["colour"](latents).float() - colour).square().mean()
            value = value + c.kl * kl + c.colour * colour
            spread = logvar.mean().mul(0.5).exp()
            figures |= {"colour": colour, "kl": kl, "std": mean.std(), "noise": spread}
        return value, figures

    def sheet(self) -> dict[str, Any]:
        """Held-out PSNR at both sizes, and a picture of 8 reconstructions."""
        if self.validation is None:
            return {}
        indices = np.arange(0, len(self.validation), max(1, len(self.validation) // 48))
        pictures = pictures_of(self.validation, indices)
        decoded = reconstruct(self.average, pictures)
        half = F.avg_pool2d(pictures, 2)
        if self.folder is not None:
            rows = [pictures[:8], decoded[:8], half[:8], reconstruct(self.average, half[:8])]
            rows = [F.interpolate(row, pictures.shape[-2:]) for row in rows]
            save_grid(torch.cat(rows), self.folder / f"vae_{self.global_step:06d}.png", 8)
        return {
            "val_psnr": psnr(decoded, pictures),
            "val_psnr_half": psnr(reconstruct(self.average, half), half),
        }


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Tensor, batch: int = 16) -> Tensor:
    """Pictures through the latents' means and back, (N, 3, H, W) in -1..1."""
    parts = []
    for part in pictures.split(batch):
        with mixed_precision(device_of(vae)):
            mean = vae.encode(part.to(device_of(vae))).latent_dist.mode()
            decoded = vae.decode(mean).sample
        parts.append(decoded.float().clamp(-1.0, 1.0).cpu())
    return torch.cat(parts)


def psnrs(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, dB (N,), of (N, 3, H, W) in -1..1."""
    errors = (first - second).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return -10.0 * torch.log10(errors / 4.0)


def psnr(first: Tensor, second: Tensor) -> float:
    """Mean over pictures (N, 3, H, W) of :func:`psnrs`."""
    return float(psnrs(first, second).mean())
