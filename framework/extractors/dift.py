"""Diffusion features at one fixed noise level, of the picture instead of the running step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.extractors.blocks import block_names, captured, describe_blocks
from framework.interfaces import EXTRACTORS, FeatureExtractor
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
    """U-Net features of the clean picture, noised to one level (Tang et al., DIFT, NeurIPS 2023).

    The reference's clean latent, and the clean latent predicted for the target in this step, are
    noised to ``timestep`` and put through the U-Net once more, without injection and with the
    step's own text conditions; what the blocks give is averaged over ``ensemble`` noises. The noise
    follows from ``seed`` alone; target and reference have different ones, so that nothing but the
    picture can match. Cost: ``ensemble`` U-Net evaluations of the targets in every ``every``-th
    matched step, and of the reference once a sampling call.
    """

    Config = DiftConfig
    unsigned = ("every", "seed", "ensemble")
    separable = True  # it reads no activations of the running step, only of its own evaluations

    def signature(self, unet: Any) -> dict[str, Any]:
        """The blocks by name, however they are named; see the base class."""
        return super().signature(unet) | {"blocks": block_names(unet, self.config.blocks)}

    @contextmanager
    def attach(self, unet: Any) -> Iterator[None]:  # type: ignore[override]
        """Hook the chosen blocks; see the base class."""
        self._references: list[Tensor] | None = None
        self._last: tuple[int, Features] | None = None
        with captured(unet, self.config.blocks, "extractor.blocks") as self._captured:
            try:
                yield
            finally:
                self._references = self._last = None

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        if self._last is not None and 0 <= step.index - self._last[0] < self.config.every:
            return self._last[1]
        targets, references = self._average(step)
        if references:
            self._references = [step.layout.pair(grid) for grid in references]
        assert self._references is not None
        features = describe_blocks(targets, self._references, self.config.pca)
        self._last = step.index, features
        return features

    def _average(self, step: StepOutputs) -> tuple[list[Tensor], list[Tensor]]:
        """Mean over the noises: one grid for each block; the references only the first time."""
        clean = step.reference.latent.repeat(step.layout.halves, 1, 1, 1)
        known = self._references is not None
        both = replace(step.layout, references=1)
        sums: list[list[Tensor]] = [[], []]
        for noise in self._noises(clean[0]):
            reference = None if known else self._noised(step, clean, noise[0])
            target = self._noised(step, step.target_clean, noise[1])
            step.evaluate(reference, target, self.config.timestep)
            for place, grid in enumerate(self._captured.values()):
                parts = (None, grid) if known else both.split(grid)
                for total, part in zip(sums, parts, strict=True):
                    if part is None:
                        continue
                    if place == len(total):
                        total.append(part.float())
                    else:
                        total[place] = total[place] + part.float()
        targets, references = sums[1], sums[0]
        share = 1 / self.config.ensemble
        return [grid * share for grid in targets], [grid * share for grid in references]

    def _noised(self, step: StepOutputs, clean: Tensor, noise: Tensor) -> Tensor:
        try:
            abar = step.alpha_bar(self.config.timestep)
        except UserError as error:
            raise UserError(f"extractor.timestep is {self.config.timestep}: {error}") from error
        return abar**0.5 * clean + (1 - abar) ** 0.5 * noise.to(clean)

    def _noises(self, like: Tensor) -> Tensor:
        """(ensemble, 2, C, h, w): for the reference, for the target."""
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.randn(self.config.ensemble, 2, *like.shape, generator=generator)
