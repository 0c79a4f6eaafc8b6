"""Descriptors from the decoder activations of the running denoising step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from framework.extractors.blocks import block_names, captured, describe_blocks
from framework.interfaces import EXTRACTORS, FeatureExtractor
from framework.interfaces.step import StepOutputs
from framework.options import PartConfig, option
from framework.types import Features


@dataclass
class DiffusionConfig(PartConfig):
    """Options of :class:`DiffusionFeatures`."""

    blocks: list[str] = option(
        [r"up_blocks\.[12]"], "regular expressions on the modules whose outputs are read"
    )
    pca: int | None = option(
        256, "components in all, shared equally by the blocks; null: no PCA", low=1
    )
    step: str = option(
        "previous",
        "whose activations a matched step uses: the step's before it, or its own, which costs a "
        "second U-Net evaluation of both branches",
        choices=("previous", "current"),
    )


@EXTRACTORS.register("diffusion")
class DiffusionFeatures(FeatureExtractor):
    """Decoder features of the U-Net, with a joint PCA per block (Eq. 6).

    Coarser blocks are resized bilinearly (align_corners=True) to the finest one's grid; the blocks
    are concatenated, finest first, and L2-normalised. Each (target, reference) pair has its own
    PCA, so a target's descriptors do not depend on its neighbours in the batch.

    A layer deep in the decoder cannot be matched with activations that come after it. With ``step:
    previous`` a step is matched with what the one before it left, which costs nothing; with ``step:
    current`` both branches are first evaluated without injection, at the price of one more U-Net
    evaluation in every matched step (about twice the time), and that is what is described.
    """

    Config = DiffusionConfig
    unsigned = ("step",)
    separable = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.current = self.config.step == "current"

    def signature(self, unet: Any) -> dict[str, Any]:
        """The blocks by name, however they are named; see the base class."""
        return super().signature(unet) | {"blocks": block_names(unet, self.config.blocks)}

    @contextmanager
    def attach(self, unet: Any) -> Iterator[None]:  # type: ignore[override]
        """Hook the chosen blocks; see the base class."""
        with captured(unet, self.config.blocks, "extractor.blocks") as self._captured:
            self._memory: dict[str, Tensor] = {}
            yield
        self._memory = {}

    def remember(self) -> dict[str, Tensor]:
        """The reference's activations, (halves, channels, H, W), by module."""
        return dict(self._captured)

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See the base class."""
        self._memory = dict(memory)

    def memory_key(self) -> str:
        """See the base class."""
        return f"activations of {self.config.blocks}"

    def _rows(self, name: str, step: StepOutputs) -> tuple[Tensor, Tensor]:
        """Activations of the reference and of the targets, together or apart evaluated."""
        rows = self._captured[name]
        if step.layout.references:
            return step.layout.split(rows)
        return self._memory[name].to(rows.device), rows

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        split = [self._rows(name, step) for name in self._captured]
        references, targets = zip(*split, strict=True)
        return describe_blocks(targets, references, self.config.pca)
