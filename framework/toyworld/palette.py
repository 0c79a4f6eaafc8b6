"""Named colours and coarse surface patterns of the toy world.

Patterns are pure functions of object-space coordinates, so a texture sticks to its object.
"""

from __future__ import annotations

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 34, 38),
    "orange": (250, 132, 20),
    "yellow": (252, 214, 34),
    "green": (36, 158, 58),
    "teal": (52, 205, 205),
    "blue": (34, 82, 222),
    "purple": (126, 44, 184),
    "pink": (252, 138, 192),
    "brown": (122, 70, 36),
    "black": (34, 34, 40),
    "white": (246, 246, 244),
}
"""Colour name -> sRGB in 0..255."""

PATTERNS: tuple[str, ...] = ("solid", "stripes", "rings", "dots", "checks", "zigzags")
"""Pattern names; all but ``solid`` paint a second colour over the first."""

_CELL = {"stripes": 0.17, "rings": 0.15, "dots": 0.26, "checks": 0.19, "zigzags": 0.17}


def rgb(name: str) -> np.ndarray:
    """Returns a named colour as linear-light RGB, float32 (3,) in 0..1 (gamma 2)."""
    if name not in COLOURS:
        raise ValueError(f"no colour {name!r}; there are: {', '.join(COLOURS)}")
    return (np.array(COLOURS[name], dtype=np.float32) / 255.0) ** 2


def surface_uv(
    points: np.ndarray,
    normals: np.ndarray,
    mapping: str,
    low: np.ndarray,
    high: np.ndarray,
    cell: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates of surface points, in pattern cells.

    Args:
        points: Object-space points, (N, 3), in object heights (the object is about 1 large).
        normals: Flat or smooth unit normals, (N, 3).
        mapping: ``"round"`` (angle about the part's vertical axis and height; plane on caps)
            or ``"box"`` (the plane facing the normal).
        low: Lower corner of the part's bounding box, (3,).
        high: Upper corner of the part's bounding box, (3,).
        cell: Wanted size of a pattern cell, object heights.

    Returns:
        ``u`` and ``v``, each (N,): whole numbers bound the cells. Around a round part ``u`` runs
        over an even number of cells, so that alternating patterns close.
    """
    extent = np.maximum(high - low, 1e-6)
    count = np.maximum(np.round(extent / cell), 1.0)
    local = (points - low) / extent * count
    facing = np.abs(normals)
    if mapping == "round":
        middle = (low + high) / 2.0
        around = max(4.0, 2.0 * round(np.pi * max(extent[0], extent[1]) / 2.0 / cell))
        angle = np.arctan2(points[:, 1] - middle[1], points[:, 0] - middle[0])
        cap = facing[:, 2] > 0.95
        u = np.where(cap, local[:, 0], (angle / (2.0 * np.pi) + 0.5) * around)
        v = np.where(cap, local[:, 1], local[:, 2])
        return u, v
    axis = np.argmax(facing, axis=1)
    u = np.where(axis == 0, local[:, 1], local[:, 0])
    v = np.where(axis == 2, local[:, 1], local[:, 2])
    return u, v


def pattern_mask(
    pattern: str,
    points: np.ndarray,
    normals: np.ndarray,
    mapping: str,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """Where a pattern shows its second colour.

    Args:
        pattern: One of :data:`PATTERNS`.
        points: Object-space points, (N, 3).
        normals: Unit normals, (N, 3).
        mapping: See :func:`surface_uv`.
        low: Lower corner of the part's bounding box, (3,).
        high: Upper corner of the part's bounding box, (3,).

    Returns:
        Bool (N,).

    Raises:
        ValueError: The pattern is unknown.
    """
    if pattern == "solid":
        return np.zeros(len(points), dtype=bool)
    if pattern not in _CELL:
        raise ValueError(f"no pattern {pattern!r}; there are: {', '.join(PATTERNS)}")
    u, v = surface_uv(points, normals, mapping, low, high, _CELL[pattern])
    if pattern == "stripes":
        return np.floor(u) % 2 == 1
    if pattern == "rings":
        return np.floor(v) % 2 == 1
    if pattern == "checks":
        return (np.floor(u) + np.floor(v)) % 2 == 1
    if pattern == "zigzags":
        return np.floor(v + 1.2 * np.abs(u / 2.0 - np.floor(u / 2.0) - 0.5) * 2.0) % 2 == 1
    u = u + 0.5 * (np.floor(v) % 2)
    du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return du * du + dv * dv < 0.36**2
