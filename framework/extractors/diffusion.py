"""Descriptors from the decoder activations of the running denoising step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.extractors.pca import joint_pca
from framework.geometry import resize_grid
from framework.interfaces import FeatureExtractor
from framework.layers import anything, resolve
from framework.options import PartConfig, option
from framework.registry import EXTRACTORS
from framework.step import StepOutputs
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

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.current = self.config.step == "current"

    @contextmanager
    def attach(self, unet: Any) -> Iterator[None]:  # type: ignore[override]
        """Hook the chosen blocks; see the base class."""
        blocks = resolve(unet, self.config.blocks, anything, "extractor.blocks")
        self._captured: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in blocks.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._captured = {}

    def _hook(self, name: str) -> Any:
        def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if tensor.dim() != 4:
                raise UserError(
                    f"extractor.blocks: '{name}' returns shape {tuple(tensor.shape)}; expected "
                    "(rows, channels, H, W): name a block, a resnet or an attention block."
                )
            self._captured[name] = tensor.detach()

        return keep

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        grids = [grid.permute(0, 2, 3, 1).float() for grid in self._captured.values()]
        grids.sort(key=lambda grid: -grid.shape[1])  # finest first; the sort is stable
        height, width = grids[0].shape[1:3]
        share = None if self.config.pca is None else max(1, self.config.pca // len(grids))
        targets, references = [], []
        for grid in grids:
            sized = resize_grid(grid, height, width, align_corners=True)
            reference, target = step.layout.split(sized)
            reference = step.layout.pair(reference)
            if share is not None:
                target, reference = joint_pca(target, reference, share)
            targets.append(target)
            references.append(reference)
        return Features(
            target=_unit(torch.cat(targets, -1)), reference=_unit(torch.cat(references, -1))
        )


def _unit(descriptors: Tensor) -> Tensor:
    return descriptors / descriptors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
