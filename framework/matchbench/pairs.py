"""What the benchmark is made of: a reference, targets, and where their points correspond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from framework.types import Correspondence


@dataclass(frozen=True)
class Target:
    """A picture whose points are looked for in the reference.

    Attributes:
        image: (1, 3, H_px, W_px), in [-1, 1].
        prompt: what it shows; may be empty.
        points: (P, 2), (x, y) in pixels; whole numbers are pixel centres.
        truth: (P, 2), where they lie in the reference, in its pixels.
        visible: (P,), bool: they can be seen there.
        box: longer side of the object's box in the reference.
        category: what kind of object.
        difference: how far the two views are apart, a word for tables.
        scale: (x, y), from pixels to the unit of ``box``.
    """

    image: Tensor
    prompt: str
    points: Tensor
    truth: Tensor
    visible: Tensor
    box: float
    category: str
    difference: str
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Group:
    """A reference and the targets matched with it in the same evaluations of the network.

    Attributes:
        name: for files.
        image: the reference, (1, 3, H_px, W_px), in [-1, 1].
        prompt: what it shows; may be empty.
        class_name: the object's noun in the prompts, for masks; empty: no masks.
        targets: at least one.
    """

    name: str
    image: Tensor
    prompt: str
    class_name: str
    targets: tuple[Target, ...]


class Source(Protocol):
    """Somewhere pairs come from: the embedded world, a folder, a data set."""

    def __len__(self) -> int:
        """Number of groups."""

    def __getitem__(self, index: int) -> Group:
        """One group; depends on nothing but the source's options and the index."""


def each(source: Source) -> Iterator[Group]:
    """Every group of a source."""
    return (source[index] for index in range(len(source)))


def truth_on_grid(target: Target, grid: tuple[int, int]) -> Correspondence:
    """The known correspondence of a pair, on a grid.

    Args:
        target: the target and its points.
        grid: (H, W).

    Returns:
        Flow (1, H, W, 2); confidence (1, H, W), 1 where a cell has a point that the reference
        shows, else 0 (the flow is 0 where a cell has no point at all).
    """
    height, width = grid
    size = torch.tensor([target.image.shape[-1] / width, target.image.shape[-2] / height])
    column, row = ((target.points + 0.5) / size).floor().long().unbind(-1)
    flow, confidence = torch.zeros(1, height, width, 2), torch.zeros(1, height, width)
    flow[0, row, column] = (target.truth - target.points) / size
    confidence[0, row, column] = target.visible.float()
    return Correspondence(flow, confidence)


def stack(correspondences: Sequence[Correspondence]) -> Correspondence:
    """Several, one after the other."""
    return Correspondence(
        torch.cat([one.flow for one in correspondences]),
        torch.cat([one.confidence for one in correspondences]),
    )
