"""Things beside the object: accessories it wears or has, and occluders in front of it."""

from __future__ import annotations

import numpy as np

from framework.toyworld.objects.category import Built
from framework.toyworld.objects.shapes import Mesh, ball, box, joined, lathe, moved, prism, tube
from framework.toyworld.scene import Accessory

Prop = tuple[Mesh, str, str]
"""A mesh, its colour and its second colour (``"rings"`` over the first; equal: plain)."""


def accessory_props(accessory: Accessory, built: Built, rotation: np.ndarray) -> list[Prop]:
    """Geometry of an accessory in the view frame.

    Hats, crowns and scarves turn with the object; flags and balloons stay to its right on the
    screen.

    Args:
        accessory: What to build.
        built: The normalised object.
        rotation: Object to view frame, (3, 3).

    Returns:
        The props, in object heights.
    """
    colour = accessory.colour
    top = np.array(built.top)
    if accessory.kind == "hat":
        r = float(np.clip(built.top_radius, 0.13, 0.24))
        brim = lathe([(0, 0), (r * 1.5, 0), (r * 1.5, 0.035), (r * 0.9, 0.05)])
        crown = lathe([(r * 0.9, 0), (r * 0.82, r * 1.5), (0, r * 1.5)])
        band = lathe([(r * 0.92, 0.05), (r * 0.91, 0.05 + r * 0.35)])
        trim = "white" if colour == "yellow" else "yellow"
        raw = [(joined(brim, crown), colour, colour), (band, trim, trim)]
        return [(_turned(moved(mesh, top), rotation), a, b) for mesh, a, b in raw]
    if accessory.kind == "crown":
        r = float(np.clip(built.top_radius, 0.13, 0.24))
        ring = lathe([(r * 0.95, 0), (r * 1.05, r * 0.6), (r * 0.9, r * 0.6), (r * 0.85, 0)])
        spike = lathe([(r * 0.3, 0), (0, r * 0.75)], 8)
        angles = np.arange(6) * np.pi / 3 + 0.2
        spikes = [moved(spike, (r * np.cos(a), r * np.sin(a), r * 0.5)) for a in angles]
        return [(_turned(moved(joined(ring, *spikes), top), rotation), colour, colour)]
    if accessory.kind == "scarf":
        a, b = built.neck_radii[0] + 0.025, built.neck_radii[1] + 0.025
        angle = np.linspace(0, 2 * np.pi, 41)
        power = 0.3 if built.boxy else 1.0
        c, s = np.cos(angle), np.sin(angle)
        around = np.stack(
            [a * np.sign(c) * np.abs(c) ** power, b * np.sign(s) * np.abs(s) ** power, 0 * c],
            axis=1,
        )
        neck = np.array(built.neck)
        loop = tube(around + neck, 0.06, 10)
        end = moved(box(0.11, 0.045, 0.26), neck + [0.5 * a, -b - 0.03, -0.25])
        return [(_turned(joined(loop, end), rotation), colour, colour)]
    x = _right_edge(built, rotation)
    if accessory.kind == "flag":
        pole = moved(lathe([(0, 0), (0.028, 0), (0.028, 1.12), (0, 1.12)], 10), (x + 0.08, 0.05, 0))
        cloth = moved(
            prism([(0, 0), (0.4, 0), (0.4, 0.28), (0, 0.28)], 0.03), (x + 0.1, 0.05, 0.82)
        )
        return [(pole, "white", "white"), (cloth, colour, colour)]
    balloon = moved(ball(0.2, 0.2, 0.25), (x + 0.16, 0.0, 1.0))
    knot = moved(lathe([(0.045, 0), (0, 0.06)], 10), (x + 0.16, 0.0, 0.71))
    string = tube([(x + 0.16, 0, 0.72), (x + 0.12, 0, 0.5), (x + 0.0, 0, 0.3)], 0.012, 6)
    return [(joined(balloon, knot), colour, colour), (string, "white", "white")]


def occluder_props(kind: str, built: Built, rotation: np.ndarray, side: float) -> list[Prop]:
    """Geometry of an occluder in the view frame, between the camera and the object.

    Args:
        kind: One of :data:`framework.toyworld.scene.OCCLUDERS`.
        built: The normalised object.
        rotation: Object to view frame, (3, 3).
        side: -1 or +1: to which side it stands.

    Raises:
        ValueError: The kind is unknown.
    """
    points = np.concatenate([m.vertices for m, _ in built.parts.values()]) @ rotation.T
    front = float(points[:, 1].min()) - 0.3
    at = (side * 0.16, front, 0.0)
    if kind == "box":
        crate = moved(moved(box(0.6, 0.4, 0.42), turn=("z", side * 14)), at)
        return [(crate, "brown", "orange")]
    if kind == "bush":
        rng = np.random.default_rng(3)
        balls = [
            moved(
                ball(0.17, sections=14),
                np.array(at) + rng.uniform(-1, 1, 3) * [0.26, 0.08, 0.1] + [0, 0, 0.19],
            )
            for _ in range(9)
        ]
        return [(joined(*balls[:5]), "green", "green"), (joined(*balls[5:]), "leaf", "leaf")]
    if kind == "rock":
        rocks = [
            moved(ball(0.3, 0.2, 0.3, 9), np.array(at) + [0, 0, 0.1]),
            moved(ball(0.2, 0.2, 0.2, 8), np.array(at) + [side * 0.26, -0.05, 0.06]),
        ]
        return [(joined(*rocks), "gray", "gray")]
    raise ValueError(f"no occluder {kind!r}")


def _turned(mesh: Mesh, rotation: np.ndarray) -> Mesh:
    """Rotates a mesh about the origin."""
    return Mesh(mesh.vertices @ rotation.T, mesh.faces, mesh.normals @ rotation.T)


def _right_edge(built: Built, rotation: np.ndarray) -> float:
    """Largest x of the object in the view frame."""
    return max(float((m.vertices @ rotation[0]).max()) for m, _ in built.parts.values())
