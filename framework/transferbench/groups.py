"""Groups of renders: a reference, a counterfeit in its place elsewhere, and what it should become.

The truth T shows the reference's object from another side, in another place. The counterfeit C is T
with other colours and patterns on every part, so that T is its only right correction, pixel by
pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from framework.matchbench.world import VIEWS, as_tensor, other_scene
from framework.toyworld.captions import PLACE_PHRASES
from framework.toyworld.concepts import CONCEPTS, is_concept
from framework.toyworld.correspondence import correspondence
from framework.toyworld.objects import CATEGORIES
from framework.toyworld.render import Render, render
from framework.toyworld.scene import ObjectSpec, SceneSpec, sample_object, sample_scene
from framework.types import Correspondence

#: Keeps the benchmark's objects apart from every training set's and from match-bench's.
STREAM = 20260212
_TRIES = 20


@dataclass(frozen=True)
class TransferTarget:
    """A counterfeit and its truth.

    Attributes:
        name: for files and tables.
        counterfeit: C, (1, 3, S, S), in [-1, 1].
        truth: T, likewise.
        mask: the object's visible pixels in both, bool (S, S).
        visible: those of them whose surface point the reference shows, bool (S, S).
        parts: the object's parts, 0 elsewhere, int (S, S).
        matches: the true correspondence to the reference on the pixel grid, flow (1, S, S, 2) in
            pixels and confidence (1, S, S), 1 where visible.
        prompt: noun and place, with ``{}`` for the object's noun.
        difference: how far the two views are apart, a word for tables.
    """

    name: str
    counterfeit: Tensor
    truth: Tensor
    mask: Tensor
    visible: Tensor
    parts: Tensor
    matches: Correspondence
    prompt: str
    difference: str


@dataclass(frozen=True)
class TransferGroup:
    """A reference and counterfeits of its object.

    Attributes:
        name: of the object, for files and tables; the clusters of the intervals.
        class_name: the object's noun.
        reference: R, (1, 3, S, S), in [-1, 1].
        mask: the object's visible pixels in R, bool (S, S).
        targets: at least one.
    """

    name: str
    class_name: str
    reference: Tensor
    mask: Tensor
    targets: tuple[TransferTarget, ...]


class WorldTransfers:
    """Groups of the embedded world; the categories take turns.

    Objects are drawn at random, none a held-out concept nor of a training set; or they are the
    held-out concepts themselves.

    Args:
        groups: number of references.
        targets: counterfeits of each, the ranges of view of match-bench taking turns.
        seed: other seeds give other objects and views.
        size: side of the pictures in pixels.
        concepts: whether the objects are the held-out concepts.
    """

    def __init__(
        self, groups: int, targets: int = 1, seed: int = 0, size: int = 128, concepts: bool = False
    ) -> None:
        self.groups, self.targets, self.seed = groups, targets, seed
        self.size, self.concepts = size, concepts

    def __len__(self) -> int:
        return self.groups

    def __getitem__(self, index: int) -> TransferGroup:
        rng = np.random.default_rng([STREAM, self.seed, int(self.concepts), index])
        name, spec = self._object(rng, index)
        reference = render(sample_scene(rng, spec, condition=None, accessory=None), self.size)
        ranges = [VIEWS[(index + place) % len(VIEWS)] for place in range(self.targets)]
        targets = tuple(
            self._target(rng, f"{name}/{place}", spec, reference, span)
            for place, span in enumerate(ranges)
        )
        return TransferGroup(
            name, spec.category, as_tensor(reference.rgb), torch.from_numpy(reference.mask), targets
        )

    def _object(self, rng: np.random.Generator, index: int) -> tuple[str, ObjectSpec]:
        if self.concepts:
            name = list(CONCEPTS)[index % len(CONCEPTS)]
            return f"{index:03d}-{name}", CONCEPTS[name]
        category = list(CATEGORIES)[index % len(CATEGORIES)]
        spec = sample_object(rng, category)
        while is_concept(spec):
            spec = sample_object(rng, category)
        return f"{index:03d}-{category}", spec

    def _target(
        self,
        rng: np.random.Generator,
        name: str,
        spec: ObjectSpec,
        reference: Render,
        span: tuple[int, int],
    ) -> TransferTarget:
        """One target, drawn again while the views show next to nothing in common."""
        for attempt in range(_TRIES):
            scene = other_scene(rng, spec, reference.scene, span)
            truth = render(scene, self.size)
            positions, visible = correspondence(truth, reference)
            if int(visible.sum()) >= self.size or attempt == _TRIES - 1:
                break
        counterfeit = render(counterfeit_scene(rng, scene), self.size)
        return TransferTarget(
            name=name,
            counterfeit=as_tensor(counterfeit.rgb),
            truth=as_tensor(truth.rgb),
            mask=torch.from_numpy(truth.mask),
            visible=torch.from_numpy(visible),
            parts=torch.from_numpy(np.where(truth.mask, truth.parts, 0).astype(np.int64)),
            matches=pixel_matches(positions, visible),
            prompt=f"a photo of a {{}}, {PLACE_PHRASES[scene.place]}",
            difference=f"{span[0]}-{span[1]}°",
        )


def counterfeit_scene(rng: np.random.Generator, scene: SceneSpec) -> SceneSpec:
    """The same scene with another colour and another pattern's look on every part that has one.

    Parts whose colour the category fixes (a tyre is black) keep it.
    """
    spec = scene.object
    fixed = CATEGORIES[spec.category].fixed
    while True:
        other = sample_object(rng, spec.category)
        same = [
            part
            for part, style in spec.parts.items()
            if part not in fixed and other.parts[part].colour == style.colour
        ]
        if not same and not is_concept(other):
            return replace(scene, object=ObjectSpec(spec.category, spec.shape, other.parts))


def pixel_matches(positions: np.ndarray, visible: np.ndarray) -> Correspondence:
    """The renderer's correspondence as flow and confidence on the pixel grid.

    Args:
        positions: float (S, S, 2), each object pixel's place (x, y) in the reference's pixels; NaN
            off the object.
        visible: bool (S, S), whether the reference shows it.

    Returns:
        Flow (1, S, S, 2), 0 off the object; confidence (1, S, S), 1 where visible.
    """
    height, width = visible.shape
    rows, columns = np.mgrid[0:height, 0:width]
    flow = np.nan_to_num(positions - np.stack([columns, rows], -1), nan=0.0).astype(np.float32)
    return Correspondence(
        torch.from_numpy(flow)[None], torch.from_numpy(visible.astype(np.float32))[None]
    )
