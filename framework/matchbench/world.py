"""Pairs of renders of the embedded world, with exact correspondence."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.matchbench.pairs import Group, Target
from framework.toyworld.captions import caption
from framework.toyworld.concepts import is_concept
from framework.toyworld.correspondence import correspondence
from framework.toyworld.objects import CATEGORIES
from framework.toyworld.render import Render, render
from framework.toyworld.scene import (
    OCCLUDERS,
    PLACES,
    ObjectSpec,
    SceneSpec,
    sample_object,
    sample_scene,
)

#: Keeps the benchmark's objects apart from every training set's.
STREAM = 20240617
#: Angles between the two directions of view, in degrees; a target for each.
VIEWS = ((0, 30), (30, 60), (60, 110), (110, 180))
_TRIES = 20


class WorldPairs:
    """Renders of one object: other view, place and accessories; the categories take turns.

    An object is drawn at random and is neither one of the held-out concepts nor of any training
    set. The reference is a usual view; each target turns the camera by an angle of another range
    of :data:`VIEWS`, stands in another place, and may wear something or be partly hidden.

    Args:
        groups: number of references.
        targets: targets of each, the ranges of view taking turns.
        seed: other seeds give other objects.
        size: side of the pictures in pixels.
        cells: cells of the matched grid along a side; there is one point in each.
        stream: another number gives objects that have nothing to do with these.
    """

    def __init__(
        self,
        groups: int,
        targets: int = len(VIEWS),
        seed: int = 0,
        size: int = 128,
        cells: int = 32,
        stream: int = STREAM,
    ) -> None:
        if size % cells:
            raise UserError(
                f"The pictures have {size} pixels, which is no multiple of the {cells} cells of "
                "the matched grid; choose another size."
            )
        self.groups, self.targets, self.seed = groups, targets, seed
        self.size, self.cells, self.stream = size, cells, stream

    def __len__(self) -> int:
        return self.groups

    def __getitem__(self, index: int) -> Group:
        rng = np.random.default_rng([self.stream, self.seed, index])
        category = list(CATEGORIES)[index % len(CATEGORIES)]
        spec = sample_object(rng, category)
        while is_concept(spec):
            spec = sample_object(rng, category)
        scene = sample_scene(rng, spec, condition=None)
        reference = render(scene, self.size)
        ranges = [VIEWS[(index + k) % len(VIEWS)] for k in range(self.targets)]
        targets = tuple(self._target(rng, spec, reference, span) for span in ranges)
        return Group(
            name=f"{index:03d}-{category}",
            image=as_tensor(reference.rgb),
            prompt=caption(scene),
            class_name=category,
            targets=targets,
        )

    def _target(
        self, rng: np.random.Generator, spec: ObjectSpec, reference: Render, span: tuple[int, int]
    ) -> Target:
        """One target, drawn again while the views show too little in common."""
        for attempt in range(_TRIES):
            scene = other_scene(rng, spec, reference.scene, span)
            view = render(scene, self.size)
            points, truth, visible = self._points(view, reference)
            if int(visible.sum()) >= 12 or (attempt == _TRIES - 1 and len(points)):
                break
        return Target(
            image=as_tensor(view.rgb),
            prompt=caption(scene),
            points=points,
            truth=truth,
            visible=visible,
            box=box_side(reference.mask),
            category=spec.category,
            difference=f"{span[0]}-{span[1]}°",
        )

    def _points(self, view: Render, reference: Render) -> tuple[Tensor, Tensor, Tensor]:
        """The pixel nearest to each cell's centre, where it shows the object."""
        xy, visible = correspondence(view, reference)
        step = self.size // self.cells
        middle = slice((step - 1) // 2, None, step)
        rows, columns = np.nonzero(view.mask[middle, middle])
        rows, columns = rows * step + (step - 1) // 2, columns * step + (step - 1) // 2
        return (
            torch.from_numpy(np.stack([columns, rows], -1)).float(),
            torch.from_numpy(xy[rows, columns]),
            torch.from_numpy(visible[rows, columns]),
        )


def other_scene(
    rng: np.random.Generator, spec: ObjectSpec, reference: SceneSpec, span: tuple[int, int]
) -> SceneSpec:
    """A scene of the same object in another place, seen from a direction ``span`` degrees away."""
    place = str(rng.choice([place for place in PLACES if place != reference.place]))
    while True:
        elevation = float(rng.uniform(9, 40))
        turn = float(rng.uniform(0, span[1])) * float(rng.choice([-1, 1]))
        azimuth = (reference.azimuth + turn + 180) % 360 - 180
        angle = view_angle((reference.azimuth, reference.elevation), (azimuth, elevation))
        if span[0] <= angle < span[1]:
            break
    away = abs((azimuth + 180) % 360 - 180)
    condition = "behind" if away >= 145 else "side" if 78 <= away <= 102 else None
    occluder = None
    if condition is None and rng.random() < 0.25:
        condition = occluder = str(rng.choice(OCCLUDERS))
    return sample_scene(
        rng,
        spec,
        condition=condition,
        occluder=occluder,
        place=place,
        azimuth=round(azimuth, 4),
        elevation=round(elevation, 4),
    )


def view_angle(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Angle in degrees between two directions given as (azimuth, elevation) in degrees."""
    (one, up), (two, high) = (tuple(map(math.radians, view)) for view in (a, b))
    cosine = math.sin(up) * math.sin(high)
    cosine += math.cos(up) * math.cos(high) * math.cos(one - two)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def as_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (1, 3, H, W) in [-1, 1]."""
    return (torch.from_numpy(picture).float() / 127.5 - 1.0).permute(2, 0, 1)[None]


def box_side(mask: np.ndarray) -> float:
    """Longer side of the box around a mask (H, W), in pixels; the picture's where it is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return float(max(mask.shape))
    return float(max(np.ptp(rows), np.ptp(columns)) + 1)
