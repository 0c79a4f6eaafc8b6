"""Latents of the training pictures, computed once and read as a memory map."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain.data import pictures_of
from framework.toyworld.pretrain.devices import device_of, mixed_precision

logger = logging.getLogger(__name__)


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Scaled means of the latents, float32 (B, 4, H / 4, W / 4)."""
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    with mixed_precision(device_of(vae)):
        mean = vae.encode(pictures.to(device_of(vae))).latent_dist.mode()
    return mean.float().cpu() * vae.config.scaling_factor


def measure_scale(vae: AutoencoderKL, world: RenderedWorld, count: int = 512) -> float:
    """One over the standard deviation of the latents, of full-size pictures spread over a set."""
    indices = np.linspace(0, len(world) - 1, min(count, len(world))).astype(int)
    parts = [encode_pictures(vae, pictures_of(world, part)) for part in np.array_split(indices, 16)]
    return vae.config.scaling_factor / float(torch.cat([p.flatten() for p in parts]).std())


def cache_latents(
    vae: AutoencoderKL, world: RenderedWorld, path: Path, size: int, batch: int = 32
) -> Path:
    """Writes the latents of a set, unless they are there; those of another number are replaced.

    Args:
        vae: The autoencoder, with its scaling factor.
        world: The set.
        path: File to write, ``.npy``, float16 (N, 4, size / 4, size / 4).
        size: Side of the pictures in pixels; smaller than the renders for averaged ones.
        batch: Pictures at a time.

    Returns:
        The path.
    """
    side = size // 4
    if path.exists() and np.load(path, mmap_mode="r").shape == (len(world), 4, side, side):
        logger.info("%s is there", path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    start_time = time.monotonic()
    out = np.lib.format.open_memmap(partial, "w+", np.float16, (len(world), 4, side, side))
    for start in range(0, len(world), batch):
        indices = np.arange(start, min(start + batch, len(world)))
        out[indices] = encode_pictures(vae, pictures_of(world, indices, size)).half().numpy()
        if start % (batch * 64) == 0:
            spent, done = time.monotonic() - start_time, start + len(indices)
            left = spent / done * (len(world) - done) / 60.0
            logger.info("latents %d of %d, %.1f minutes left", done, len(world), left)
    out.flush()
    partial.replace(path)
    return path
