"""Diffusion features at one fixed noise level, of the picture instead of the running step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.extractors.blocks import block_names, captured, describe_blocks
from framework.interfaces import EXTRACTORS, Backbone, FeatureExtractor
from framework.interfaces.levels import noisy
from framework.interfaces.step import StepOutputs
from framework.options import PartConfig, option
from framework.types import Features


@dataclass
class DiftConfig(PartConfig):
    """Options of :class:`Dift`."""

    blocks: list[str] = option(
        [r"up_blocks\.1"], "regular expressions on the modules whose outputs are read"
    )
    timestep: int = option(261, "diffusion time whose noise is put on the picture", low=0)
    ensemble: int = option(2, "noises whose features are averaged", low=1)
    seed: int = option(0, "of these noises; they are the same in every step and call", low=0)
    pca: int | None = option(
        None, "components in all, shared equally by the blocks; null: no PCA", low=1
    )
    every: int = option(1, "the target is described anew in every so many steps", low=1)


@EXTRACTORS.register("dift")
class Dift(FeatureExtractor):
    """Features of the clean picture, noised to one level (Tang et al., DIFT, NeurIPS 2023).

    The reference's clean latent, and the clean latent predicted for the target in this step, are
    noised to ``timestep`` and put through the network once more, without injection and with the
    step's own text conditions; what the blocks give is averaged over ``ensemble`` noises. The noise
    follows from ``seed`` alone; target and reference have different ones, so that nothing but the
    picture can match. Cost: ``ensemble`` evaluations of the targets in every ``every``-th
    matched step, and of the reference once a sampling call.
    """

    Config = DiftConfig
    unsigned = ("every", "seed", "ensemble")

    def signature(self, backbone: Backbone) -> dict[str, Any]:
        """The blocks by name, however they are named; see the base class."""
        return super().signature(backbone) | {"blocks": block_names(backbone, self.config.blocks)}

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:  # type: ignore[override]
        """Hook the chosen blocks; see the base class."""
        self._references: list[Tensor] | None = None
        self._last: tuple[int, Features] | None = None
        with captured(backbone, self.config.blocks, "extractor.blocks") as self._captured:
            try:
                yield
            finally:
                self._references = self._last = None

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        if self._last is not None and 0 <= step.index - self._last[0] < self.config.every:
            return self._last[1]
        if self._references is None:
            clean = step.reference.latent.repeat(step.layout.halves, 1, 1, 1)
            grids = self._average(step, clean, of_reference=True)
            self._references = [step.layout.pair(grid) for grid in grids]
        targets = self._average(step, step.target_clean, of_reference=False)
        features = describe_blocks(targets, self._references, self.config.pca)
        self._last = step.index, features
        return features

    def _average(self, step: StepOutputs, clean: Tensor, of_reference: bool) -> list[Tensor]:
        """Mean over the noises of what each block gives, (rows, channels, h, w).

        Args:
            step: the step.
            clean: clean latents (rows, C, h, w) of the reference, or of the targets.
            of_reference: which of the two.
        """
        noises = self._noises(clean[0])[:, int(not of_reference)]
        sums: list[Tensor] = []
        for noise in noises:
            step.evaluate(self._noised(step, clean, noise), self.config.timestep, of_reference)
            grids = [grid.float() for grid in self._captured.values()]
            sums = [a + b for a, b in zip(sums, grids, strict=True)] if sums else grids
        return [grid / len(noises) for grid in sums]

    def _noised(self, step: StepOutputs, clean: Tensor, noise: Tensor) -> Tensor:
        try:
            level = step.level(self.config.timestep)
        except UserError as error:
            raise UserError(f"extractor.timestep is {self.config.timestep}: {error}") from error
        return noisy(clean, noise.to(clean), level)

    def _noises(self, like: Tensor) -> Tensor:
        """(ensemble, 2, C, h, w): for the reference, for the target."""
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.randn(self.config.ensemble, 2, *like.shape, generator=generator)
