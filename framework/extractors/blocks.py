"""Reading the outputs of chosen blocks of the network, and bringing them to one grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from framework.extractors.pca import resized_joint_pca
from framework.geometry import resize_grid
from framework.interfaces import Backbone
from framework.types import Features


def block_names(
    backbone: Backbone, patterns: Sequence[str], what: str = "extractor.blocks"
) -> list[str]:
    """Module paths of the chosen blocks, in the order of the network.

    Raises:
        UserError: a pattern matches nothing.
    """
    return list(backbone.modules(patterns, what))


@contextmanager
def captured(backbone: Backbone, patterns: Sequence[str], what: str) -> Iterator[dict[str, Tensor]]:
    """While it lasts the mapping holds what each chosen block gave in the last evaluation.

    Args:
        backbone: the model.
        patterns: regular expressions on module paths.
        what: the option they come from, for messages.

    Yields:
        Module path -> (rows, channels, H, W), detached.

    Raises:
        UserError: a pattern matches nothing, or a module that returns no grid.
    """
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            found[name] = backbone.to_grid(name, output, what).detach()

        return keep

    hooks = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in backbone.modules(patterns, what).items()
    ]
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()
        found.clear()


def describe_blocks(
    targets: Sequence[Tensor], references: Sequence[Tensor], pca: int | None
) -> Features:
    """Descriptors from several grids: finest first, resized to the finest, each with its own PCA.

    Args:
        targets: one grid for each block, (B, C, h, w).
        references: likewise, (R, C, h, w) with R a divisor of B; row r stands beside the r-th
            B / R targets.
        pca: components in all, shared equally by the blocks; None: no PCA.
    """
    order = sorted(range(len(targets)), key=lambda i: -targets[i].shape[2])  # stable
    height, width = targets[order[0]].shape[2:]
    share = None if pca is None else max(1, pca // len(order))
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in order:
        target, reference = targets[i], references[i]
        if share is not None:
            pair = resized_joint_pca(target, reference, share, height, width)
        else:
            many = len(target) // len(reference)
            sized = [
                resize_grid(grid.permute(0, 2, 3, 1).float(), height, width, align_corners=True)
                for grid in (target, reference)
            ]
            pair = (sized[0], sized[1].repeat_interleave(many, dim=0))
        for side, grid in zip(found, pair, strict=True):
            side.append(grid)
    return Features(target=unit(torch.cat(found[0], -1)), reference=unit(torch.cat(found[1], -1)))


def unit(descriptors: Tensor) -> Tensor:
    """L2-normalise (..., D) over the last axis; zeros stay zeros."""
    return descriptors / descriptors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
