"""Descriptors from the decoder activations of the running denoising step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from framework.extractors.activations import ActivationExtractor
from framework.extractors.blocks import describe_blocks
from framework.interfaces import EXTRACTORS
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
        "second evaluation of the targets",
        choices=("previous", "current"),
    )


@EXTRACTORS.register("diffusion")
class DiffusionFeatures(ActivationExtractor):
    """Decoder features of the network, with a joint PCA per block (Eq. 6).

    Coarser blocks are resized bilinearly (align_corners=True) to the finest one's grid; the blocks
    are concatenated, finest first, and L2-normalised. Each (target, reference) pair has its own
    PCA, so a target's descriptors do not depend on its neighbours in the batch.

    A layer deep in the decoder cannot be matched with activations that come after it. With ``step:
    previous`` a step is matched with what the one before it left, which costs nothing; with ``step:
    current`` the targets are first evaluated without injection, at the price of one more
    evaluation in every matched step (about twice the time), and that is what is described.
    """

    Config = DiffusionConfig
    unsigned = ("step",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.current = self.config.step == "current"

    def describe_activations(
        self, target: Mapping[str, Tensor], reference: Mapping[str, Tensor], step: StepOutputs
    ) -> Features:
        """See the base class."""
        return describe_blocks(list(target.values()), list(reference.values()), self.config.pca)
