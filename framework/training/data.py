"""Reference pictures as training batches: latents cached once, every batch a function of its step.

Nothing remembers where a random stream stood: the batch of step k is drawn from (seed, k) alone, so
a resumed training sees exactly what an uninterrupted one sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from framework.model import TextToImageModel
from framework.preprocess import prepare_image


@dataclass  # not frozen: Lightning fills a copy with the moved tensors
class Batch:
    """What one training step sees.

    Attributes:
        latents: clean scaled latents z_0, (b, C, h, w), float32.
        noise: eps, the same shape.
        timesteps: diffusion times, (b,), int64.
        prompts: b sentences, the concept filled in.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: list[str]


@dataclass(frozen=True)
class CachedLatents:
    """Scaled VAE posteriors of the references.

    Attributes:
        mean: (n, C, h, w) float32 on the CPU; with mirroring, the mirrored images follow.
        std: likewise; zero where the mean is to be used.
    """

    mean: Tensor
    std: Tensor


@torch.no_grad()
def cache_latents(
    model: TextToImageModel,
    images: Sequence[Image.Image],
    height: int,
    width: int,
    *,
    sample: bool = True,
    mirror: bool = False,
) -> CachedLatents:
    """Encode the references, one by one.

    A VAE marked ``force_upcast`` in half precision (SDXL's overflows) runs in float32 meanwhile.

    Args:
        model: the pipeline.
        images: references.
        height: rows in pixels.
        width: columns.
        sample: keep the posterior's spread, so that each batch draws from it.
        mirror: also encode every picture mirrored left to right.
    """
    pipe: Any = model.pipe
    vae = pipe.vae
    dtype = vae.dtype
    upcast = dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    pictures = [prepare_image(image, height, width) for image in images]
    if mirror:
        pictures += [picture.flip(-1) for picture in pictures]
    try:
        if upcast:
            vae.to(torch.float32)
        posteriors = [
            vae.encode(picture.to(model.device, vae.dtype)).latent_dist for picture in pictures
        ]
    finally:
        if upcast:
            vae.to(dtype)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scale = vae.config.scaling_factor
    mean = torch.cat([(p.mean.float().cpu() - shift) * scale for p in posteriors])
    std = torch.cat([p.std.float().cpu() * scale for p in posteriors])
    return CachedLatents(mean, std if sample else torch.zeros_like(std))


class ConceptBatches(IterableDataset):
    """An endless stream of batches that starts at any step.

    Pictures come in shuffled rounds, each one equally often.

    Args:
        latents: the references.
        prompts: sentences, the concept filled in; each batch element draws one.
        batch_size: b.
        timesteps: number T of diffusion times.
        seed: of everything drawn.
        stratified: draw the b diffusion times from b equal shares of [0, T) instead of freely,
            which makes the loss less noisy and leaves its expectation as it is.
        start: step of the first batch.
    """

    def __init__(
        self,
        latents: CachedLatents,
        prompts: Sequence[str],
        batch_size: int,
        timesteps: int,
        seed: int,
        *,
        stratified: bool = False,
        start: int = 0,
    ) -> None:
        self.latents, self.prompts = latents, list(prompts)
        self.batch_size, self.timesteps = batch_size, timesteps
        self.seed, self.stratified, self.start = seed, stratified, start

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""
        stream = _generator(self.seed, 0, step)
        size, shape = self.batch_size, self.latents.mean.shape[1:]
        rows = torch.tensor([self._row(step * size + place) for place in range(size)])
        spread = torch.randn((size, *shape), generator=stream)
        noise = torch.randn((size, *shape), generator=stream)
        position = torch.rand(size, generator=stream, dtype=torch.float64)
        if self.stratified:
            position = (position + torch.randperm(size, generator=stream)) / size
        chosen = torch.randint(len(self.prompts), (size,), generator=stream)
        return Batch(
            latents=self.latents.mean[rows] + self.latents.std[rows] * spread,
            noise=noise,
            timesteps=(position * self.timesteps).long().clamp_max(self.timesteps - 1),
            prompts=[self.prompts[index] for index in chosen.tolist()],
        )

    def _row(self, place: int) -> int:
        """Which picture stands at a place of the endless sequence of shuffled rounds."""
        count = len(self.latents.mean)
        order = torch.randperm(count, generator=_generator(self.seed, 1, place // count))
        return int(order[place % count])


def _generator(*words: int) -> torch.Generator:
    """A generator that is independent for every tuple of numbers."""
    entropy = [word % 2**64 for word in words]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
