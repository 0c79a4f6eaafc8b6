"""Several extractors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.extractors.blocks import unit
from framework.geometry import resize_grid
from framework.interfaces import EXTRACTORS, Backbone, FeatureExtractor
from framework.interfaces.step import StepOutputs
from framework.options import PartConfig, build, option, options_of
from framework.types import Features


@dataclass
class FusedShare(PartConfig):
    """What each of the extractors has beside its own options."""

    weight: float = option(1.0, "its share in the similarity, relative to the others'", low=0.0)


@dataclass
class FusedConfig(PartConfig):
    """Options of :class:`Fused`."""

    extractors: Any = option(
        {"diffusion": {}, "dino": {}},
        "name: its options and its weight, for each extractor; a label with a name: inside serves "
        "where one is used twice",
        part="extractor",
        several=FusedShare,
    )


@EXTRACTORS.register("fused")
class Fused(FeatureExtractor):
    """Several extractors, each normalised, weighted, concatenated ("SD + DINO").

    Every extractor's descriptors are resized to the finest grid among them and normalised; they
    are joined with the square roots of their weights, so the cosine similarity of the whole is the
    weighted mean of theirs (as Zhang et al., NeurIPS 2023, fuse Stable Diffusion and DINO). An
    extractor of weight 0 is left out. Cost: the sum of its extractors'.
    """

    Config = FusedConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner: list[FeatureExtractor] = []
        self.weights: list[float] = []
        for section in self.config.extractors.values():
            own, share = _split(section)
            if share["weight"] > 0:
                self.inner.append(build("extractor", own))
                self.weights.append(share["weight"])
        if not self.inner:
            raise UserError(
                "extractors is empty; name at least one with a weight above 0, e.g. "
                "extractors: {diffusion: {weight: 1}, dino: {weight: 0.5}}."
            )
        steps = {each.current for each in self.inner if hasattr(each.config, "step")}
        if len(steps) > 1:
            raise UserError(
                "extractors use activations of the previous and of the current step; the sampler "
                "shows all of them the same step, so give them one value of step."
            )
        self.current = any(each.current for each in self.inner)

    def __copy__(self) -> Fused:
        """One with copies of its extractors, so that the two share no state of a step."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__, inner=[copy(each) for each in self.inner])
        return twin

    def signature(self, backbone: Backbone) -> dict[str, Any]:
        """Weights and signatures of those inside; see the base class."""
        inner = zip(self.weights, self.inner, strict=True)
        return {
            "name": self.name,
            "extractors": [[w, each.signature(backbone)] for w, each in inner],
        }

    def remember(self) -> dict[str, Tensor]:
        """What each extractor remembers, under its place."""
        return {
            f"{place}/{name}": tensor
            for place, each in enumerate(self.inner)
            for name, tensor in each.remember().items()
        }

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See the base class."""
        for place, each in enumerate(self.inner):
            start = f"{place}/"
            own = {name: tensor for name, tensor in memory.items() if name.startswith(start)}
            each.recall({name.removeprefix(start): tensor for name, tensor in own.items()})

    def memory_key(self) -> str:
        """See the base class."""
        return " | ".join(each.memory_key() for each in self.inner)

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:  # type: ignore[override]
        """Attach every extractor; see the base class."""
        with ExitStack() as stack:
            for each in self.inner:
                stack.enter_context(each.attach(backbone))
            yield

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        found = [each(step) for each in self.inner]
        height, width = max((each.target.shape[1:3] for each in found), key=lambda s: s[0] * s[1])

        def join(grids: list[Tensor]) -> Tensor:
            sized = [unit(resize_grid(grid, height, width)) for grid in grids]
            scaled = [grid * weight**0.5 for grid, weight in zip(sized, self.weights, strict=True)]
            return unit(torch.cat(scaled, dim=-1))

        return Features(join([f.target for f in found]), join([f.reference for f in found]))


def _split(section: Any) -> tuple[Any, dict[str, Any]]:
    """An entry -> the extractor's own section (or the ready extractor), and its share."""
    if not isinstance(section, Mapping):
        return section, options_of(FusedShare())
    beside = options_of(FusedShare())
    return (
        {key: value for key, value in section.items() if key not in beside},
        {key: value for key, value in section.items() if key in beside},
    )
