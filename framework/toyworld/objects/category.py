"""What a category of objects is: its parts, its proportions and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from framework.toyworld.objects.shapes import Mesh


@dataclass(frozen=True)
class Built:
    """The geometry of one object.

    Attributes:
        parts: Part name -> (mesh, texture mapping ``"round"`` or ``"box"``).
        top: Point (3,) a hat stands on.
        top_radius: Radius the hat should have there.
        neck: Centre (3,) of a scarf.
        neck_radii: Half axes (x, y) of the scarf.
        boxy: Whether the scarf goes around something with a rectangular section.
    """

    parts: dict[str, tuple[Mesh, str]]
    top: tuple[float, float, float]
    top_radius: float
    neck: tuple[float, float, float]
    neck_radii: tuple[float, float]
    boxy: bool = False

    def normalised(self) -> Built:
        """The same object standing on z = 0, centred, its largest extent 1."""
        every = np.concatenate([mesh.vertices for mesh, _ in self.parts.values()])
        low, high = every.min(0), every.max(0)
        scale = 1.0 / float((high - low).max())
        shift = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        parts = {
            name: (Mesh((mesh.vertices - shift) * scale, mesh.faces, mesh.normals), mapping)
            for name, (mesh, mapping) in self.parts.items()
        }
        return Built(
            parts,
            tuple((np.array(self.top) - shift) * scale),
            self.top_radius * scale,
            tuple((np.array(self.neck) - shift) * scale),
            (self.neck_radii[0] * scale, self.neck_radii[1] * scale),
            self.boxy,
        )


@dataclass(frozen=True)
class Category:
    """A kind of object.

    Attributes:
        name: Its class noun.
        parts: Part names, the main part first.
        shape: Proportion name -> (lowest, highest).
        build: Proportions -> geometry (any scale; front towards -y, up +z, right +x).
        patterned: Parts that may carry a pattern.
        fixed: Parts with a fixed colour (eyes, ...), never captioned.
        yaw: Middle of the usual viewing azimuths, degrees from the front.
    """

    name: str
    parts: tuple[str, ...]
    shape: dict[str, tuple[float, float]]
    build: Callable[[dict[str, float]], Built]
    patterned: tuple[str, ...]
    fixed: dict[str, str] = field(default_factory=dict)
    yaw: float = 0.0
