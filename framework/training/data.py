"""Reference pictures as training batches: latents cached once, every batch a function of its step.

Nothing remembers where a random stream stood: the batch of step k is drawn from (seed, k) alone, so
a resumed training sees exactly what an uninterrupted one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import IterableDataset

from framework.interfaces.backbone import Backbone
from framework.training.views import View, mirrored, resized, views


@dataclass  # not frozen: Lightning fills a copy with the moved tensors
class Batch:
    """What one training step sees.

    Attributes:
        latents: clean scaled latents z_0, (b, C, h, w), float32.
        noise: eps, the same shape.
        timesteps: diffusion times, (b,), int64.
        prompts: b sentences, the concept filled in.
        shares: what each element's loss counts for, (b,); None: 1 / b each.
        frames: height and width of each original picture, top and left of the square in the resized
            one, (b, 4), in pixels; None: whole pictures of the model's size.
        valid: where the loss counts, (b, 1, h, w) in {0, 1}; None: everywhere.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: list[str]
    shares: Tensor | None = None
    frames: Tensor | None = None
    valid: Tensor | None = None


@dataclass(frozen=True)
class CachedLatents:
    """Scaled VAE posteriors of the references.

    Attributes:
        mean: (n, C, h, w) float32 on the CPU; with mirroring, the mirrored images follow.
        std: likewise; zero where the mean is to be used.
        frames: (n, 4), see :class:`Batch`; None for whole pictures.
        valid: (n, 1, h, w), see :class:`Batch`; None: everywhere.
        notes: words before the prompt of each, or ``""``; none at all for no picture.
    """

    mean: Tensor
    std: Tensor
    frames: Tensor | None = None
    valid: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prior:
    """Pictures of the class that must not change.

    Attributes:
        latents: theirs.
        prompt: the sentence that names the class alone.
        batch_size: how many of them a batch holds beside the references.
        weight: of their mean loss, beside the references' mean loss.
    """

    latents: CachedLatents
    prompt: str
    batch_size: int
    weight: float


@torch.no_grad()
def cache_latents(
    model: Backbone,
    images: Sequence[Image.Image],
    height: int,
    width: int,
    *,
    sample: bool = True,
    mirror: bool = False,
    crop: str = "center",
    seed: int = 0,
    sizes: int = 1,
    notes: tuple[Sequence[str], Sequence[str]] = ((), ()),
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
        crop: see :func:`framework.training.views.views`.
        seed: of random crops and sizes.
        sizes: more than one: every square in so many sizes instead.
        notes: words for small and large ones; see :func:`framework.training.views.resized`.
    """
    squares = [
        square
        for index, image in enumerate(images)
        for square in views(image, height, width, crop, seed + index)
    ]
    if sizes > 1:
        squares = [
            each
            for index, square in enumerate(squares)
            for each in resized(square, sizes, seed + index, notes)
        ]
    if mirror:
        squares += [mirrored(square) for square in squares]
    posteriors = [model.posterior(square.pixels) for square in squares]
    mean, std = (torch.cat(tensors) for tensors in zip(*posteriors, strict=True))
    return CachedLatents(
        mean,
        std if sample else torch.zeros_like(std),
        torch.tensor([square.frame for square in squares]),
        _cells(squares, mean),
        tuple(square.note for square in squares),
    )


def _cells(squares: Sequence[View], latents: Tensor) -> Tensor | None:
    """Latent cells that lie in the picture altogether, (n, 1, h, w); None: all of them do."""
    if all(square.valid is None for square in squares):
        return None
    size = (latents.shape[-2], latents.shape[-1])
    return torch.cat(
        [
            latents.new_ones(1, 1, *size)
            if square.valid is None
            else (adaptive_avg_pool2d(square.valid, size) >= 1).float()
            for square in squares
        ]
    )


class ConceptBatches(IterableDataset):
    """An endless stream of batches that starts at any place.

    Pictures come in shuffled rounds, each one equally often. Several processes take turns: with two
    of them the first takes batches 0, 2, 4, ..., the second 1, 3, 5, ...

    Args:
        latents: the references.
        prompts: sentences, the concept filled in; each batch element draws one.
        batch_size: b.
        timesteps: number T of diffusion times.
        seed: of everything drawn.
        stratified: draw the b diffusion times from b equal shares of [0, T) instead of freely,
            which makes the loss less noisy and leaves its expectation as it is.
        start: number of the first batch of this process.
        prior: class images that each batch holds after the references.

    Attributes:
        turns: tells, when iteration begins, the number of this process and how many train together;
            not those of a process group, which may serve something around the training.
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
        prior: Prior | None = None,
    ) -> None:
        self.latents, self.prompts, self.prior = latents, list(prompts), prior
        self.batch_size, self.timesteps = batch_size, timesteps
        self.seed, self.stratified, self.start = seed, stratified, start
        self.turns: Callable[[], tuple[int, int]] = lambda: (0, 1)

    def __iter__(self) -> Iterator[Batch]:
        rank, world = self.turns()
        step = self.start
        while True:
            yield self.batch(step * world + rank)
            step += 1

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""
        stream = _generator(self.seed, 0, step)
        own = self._drawn(self.latents, self.batch_size, step, stream, 1)
        chosen = torch.randint(len(self.prompts), (self.batch_size,), generator=stream)
        own.prompts = [
            f"{note} {self.prompts[index]}".strip()
            for note, index in zip(own.prompts, chosen.tolist(), strict=True)
        ]
        if self.prior is None:
            return own
        prior, size = self.prior, self.prior.batch_size
        other = self._drawn(prior.latents, size, step, _generator(self.seed, 2, step), 4)
        return Batch(
            latents=torch.cat([own.latents, other.latents]),
            noise=torch.cat([own.noise, other.noise]),
            timesteps=torch.cat([own.timesteps, other.timesteps]),
            prompts=own.prompts + [prior.prompt] * size,
            frames=_joined(own.frames, other.frames),
            valid=_joined(own.valid, other.valid, len(other.latents)),
            shares=torch.cat(
                [
                    torch.full((self.batch_size,), 1 / self.batch_size),
                    torch.full((size,), prior.weight / size),
                ]
            ),
        )

    def _drawn(
        self, latents: CachedLatents, size: int, step: int, stream: torch.Generator, order: int
    ) -> Batch:
        """Everything of some pictures but their prompts, in whose place their notes are."""
        shape = latents.mean.shape[1:]
        places = range(step * size, (step + 1) * size)
        rows = torch.tensor([self._row(len(latents.mean), place, order) for place in places])
        spread = torch.randn((size, *shape), generator=stream)
        noise = torch.randn((size, *shape), generator=stream)
        position = torch.rand(size, generator=stream, dtype=torch.float64)
        if self.stratified:
            position = (position + torch.randperm(size, generator=stream)) / size
        return Batch(
            latents=latents.mean[rows] + latents.std[rows] * spread,
            noise=noise,
            timesteps=(position * self.timesteps).long().clamp_max(self.timesteps - 1),
            prompts=[latents.notes[row] if latents.notes else "" for row in rows.tolist()],
            frames=None if latents.frames is None else latents.frames[rows],
            valid=None if latents.valid is None else latents.valid[rows],
        )

    def _row(self, count: int, place: int, order: int) -> int:
        """Which picture stands at a place of the endless sequence of shuffled rounds."""
        shuffled = torch.randperm(count, generator=_generator(self.seed, order, place // count))
        return int(shuffled[place % count])


def _joined(first: Tensor | None, second: Tensor | None, more: int = 0) -> Tensor | None:
    """Two parts of a batch as one; ``more`` rows of ones for a second that is missing."""
    if first is None:
        return None
    if second is None:
        second = first.new_ones(more, *first.shape[1:])
    return torch.cat([first, second])


def _generator(*words: int) -> torch.Generator:
    """A generator that is independent for every tuple of numbers."""
    entropy = [word % 2**64 for word in words]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
