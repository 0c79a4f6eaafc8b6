"""What the ``learned`` matcher's head learns from: descriptors of pairs, and the truth."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset

from framework.geometry import resize_grid
from framework.interfaces import FeatureExtractor
from framework.matchbench.folder import hash_of
from framework.matchbench.observe import Observatory
from framework.matchbench.pairs import Source, Target
from framework.runs.progress import no_progress

#: Lessons kept to be repeated.
REMEMBERED = 64
#: Groups whose descriptors the head's projection starts from, and how many of them are taken.
FIRST, EVERY = 14, 7


@dataclass(frozen=True)
class Lesson:
    """Descriptors of a group at one step, and the truth.

    Attributes:
        target: (K, H, W, D).
        reference: (K, H, W, D).
        targets: the K targets and their points.
    """

    target: Tensor
    reference: Tensor
    targets: tuple[Target, ...]


class Lessons(IterableDataset):
    """Groups of a source, one after the other, each at a few random sampling steps; without end.

    The model's work is most of the cost of a lesson, so each new one is followed by some of the
    latest ones again.

    Args:
        observatory: shows groups to the model.
        extractor: makes the descriptors.
        source: groups by index, of which any may be asked for.
        looks: steps at which each group is shown.
        repeats: earlier lessons after each new one.
        seed: of the noise, the steps and the repetitions.

    Attributes:
        start: lessons to pass over, where an interrupted training goes on.
    """

    def __init__(
        self,
        observatory: Observatory,
        extractor: FeatureExtractor,
        source: Source,
        looks: int = 2,
        repeats: int = 2,
        seed: int = 0,
    ) -> None:
        self.observatory, self.extractor, self.source = observatory, extractor, source
        self.looks, self.repeats, self.seed, self.start = looks, repeats, seed, 0

    def __iter__(self) -> Iterator[Lesson]:
        number = self.start // ((1 + self.repeats) * self.looks)
        rng = np.random.default_rng([self.seed, number, REMEMBERED])
        latest: deque[Lesson] = deque(maxlen=REMEMBERED)
        while True:
            for lesson in self.group(number):
                latest.append(lesson)
                yield lesson
                for place in rng.integers(len(latest), size=self.repeats):
                    yield latest[place]
            number += 1

    def descriptors(self) -> Tensor:
        """Every :data:`EVERY`-th descriptor of the first :data:`FIRST` groups, (n, D)."""
        found = [
            torch.cat([lesson.target, lesson.reference[:1]]).flatten(0, 2)[::EVERY]
            for number in range(FIRST)
            for lesson in self.group(number)
        ]
        return torch.cat(found)

    def group(self, number: int) -> Iterator[Lesson]:
        """The lessons of one group."""
        config, observatory = self.observatory.config, self.observatory
        rng = np.random.default_rng([self.seed, number])
        total = len(observatory.denoiser.timesteps)
        steps = sorted(rng.choice(total, min(self.looks, total), replace=False).tolist())
        group = self.source[number]
        if "seed" in config.trajectory:  # noise of its own for every reference
            own = hash_of(self.seed, number)
            observatory.trajectory = config.part("trajectory", seed=own)
        with torch.no_grad(), no_progress():
            prepared = observatory.prepare(group, hash_of(self.seed + 1, number))
            for look in observatory.look(prepared, self.extractor, steps):
                yield Lesson(look.features.target, look.features.reference, group.targets)


def coarser(lesson: Lesson) -> Lesson:
    """The same on a grid of half the size."""
    height, width = (max(1, side // 2) for side in lesson.target.shape[1:3])
    sized = [
        F.normalize(resize_grid(grid, height, width), dim=-1)
        for grid in (lesson.target, lesson.reference)
    ]
    return Lesson(sized[0], sized[1], lesson.targets)
