"""Objects put together from boxes: house, car, train, robot, boat."""

from __future__ import annotations

import numpy as np

from framework.toyworld.objects.category import Built, Category
from framework.toyworld.objects.shapes import (
    Mesh,
    ball,
    box,
    flat_shaded,
    joined,
    lathe,
    mirrored,
    moved,
    prism,
)


def _wheel(radius: float, width: float) -> Mesh:
    """A wheel with a horizontal axle along x, about the origin."""
    w = width / 2
    disc = [
        (0, -w),
        (radius * 0.85, -w),
        (radius, -w * 0.6),
        (radius, w * 0.6),
        (radius * 0.85, w),
        (0, w),
    ]
    return moved(lathe(disc, 24), turn=("y", 90))


def _house(s: dict[str, float]) -> Built:
    w, d, h, p = 0.86, s["depth"], s["walls"], s["roof"]
    e = 0.1
    roof = prism([(-w / 2 - e, h - 0.04), (w / 2 + e, h - 0.04), (0, h + p)], d + 2 * e * 0.8)
    door = moved(box(0.2, 0.06, 0.36), (0.0, -d / 2, 0))
    pane = moved(box(0.17, 0.06, 0.17), (0.27, -d / 2, h * 0.5))
    side = moved(box(0.06, 0.22, 0.2), (w / 2, 0, h * 0.42))
    chimney = moved(box(0.16, 0.16, p * 0.75 + 0.06), (0.24, 0.0, h + p * 0.35))
    parts = {
        "walls": (box(w, d, h), "box"),
        "roof": (roof, "box"),
        "door": (door, "box"),
        "windows": (joined(mirrored(pane), mirrored(side)), "box"),
        "chimney": (chimney, "box"),
    }
    return Built(parts, (0, 0, h + p - 0.1), 0.22, (0, 0, h * 0.72), (w / 2, d / 2), True)


def _car(s: dict[str, float]) -> Built:
    length, w, g = s["length"], 0.6, 0.13
    body = moved(
        prism(
            [
                (-length / 2, 0),
                (length / 2, 0),
                (length / 2, 0.24),
                (length / 2 - 0.06, 0.3),
                (-length / 2 + 0.04, 0.3),
                (-length / 2, 0.22),
            ],
            w,
        ),
        (0, 0, g),
        ("z", 90),
    )
    c, t = s["cabin"], s["tall"]
    cabin = moved(
        prism(
            [(-c / 2 - 0.08, 0), (c / 2 + 0.06, 0), (c / 2 - 0.04, t), (-c / 2 + 0.06, t)], w * 0.88
        ),
        (0, 0.08, g + 0.3),
        ("z", 90),
    )
    pane = moved(
        prism(
            [
                (-c / 2 + 0.0, 0.05),
                (c / 2 - 0.02, 0.05),
                (c / 2 - 0.08, t - 0.05),
                (-c / 2 + 0.08, t - 0.05),
            ],
            0.03,
        ),
        (w * 0.44, 0.08, g + 0.3),
        ("z", 90),
    )
    front = moved(box(w * 0.7, 0.03, t - 0.1), (0, -c / 2 + 0.075, g + 0.35), ("x", -8))
    wheel = moved(_wheel(0.17, 0.14), (w / 2 - 0.01, length * 0.29, 0.17))
    other = moved(_wheel(0.17, 0.14), (w / 2 - 0.01, -length * 0.29, 0.17))
    light = moved(ball(0.07, 0.05, 0.07, 14), (w * 0.33, -length / 2, g + 0.17))
    parts = {
        "body": (body, "box"),
        "cabin": (cabin, "box"),
        "wheels": (joined(mirrored(wheel), mirrored(other)), "round"),
        "windows": (joined(mirrored(pane), front), "box"),
        "lights": (mirrored(light), "round"),
    }
    return Built(
        parts, (0, 0.08, g + 0.3 + t), 0.2, (0, 0.08, g + 0.32), (w * 0.46, c / 2 + 0.08), True
    )


def _train(s: dict[str, float]) -> Built:
    length, r = s["boiler"], 0.25
    z = 0.44
    boiler = moved(
        lathe([(0, 0), (r * 0.9, 0), (r, 0.05), (r, length), (0, length)]), (0, 0.1, z), ("x", 90)
    )
    frame = moved(box(0.5, length + 0.5, 0.14), (0, 0.1 - length / 2 + 0.22, 0.14))
    cab = moved(box(0.56, 0.4, s["cab"]), (0, 0.26, 0.24))
    top = moved(box(0.66, 0.5, 0.07), (0, 0.26, 0.24 + s["cab"]))
    chimney = moved(
        lathe([(0.07, 0), (0.09, 0.22), (0.16, 0.36), (0, 0.36)], 20),
        (0, -length + 0.3, z + r - 0.04),
    )
    wheels = joined(
        *(mirrored(moved(_wheel(0.17, 0.1), (0.28, y, 0.17))) for y in (0.3, -0.08, -length + 0.24))
    )
    light = moved(ball(0.08, 0.06, 0.08, 14), (0, 0.1 - length, z + 0.02))
    parts = {
        "boiler": (joined(boiler, frame), "box"),
        "cab": (cab, "box"),
        "roof": (top, "box"),
        "chimney": (chimney, "round"),
        "wheels": (wheels, "round"),
        "light": (light, "round"),
    }
    return Built(
        parts, (0, 0.26, 0.31 + s["cab"]), 0.2, (0, -length / 2 + 0.12, z), (r, 0.12), True
    )


def _robot(s: dict[str, float]) -> Built:
    w, h, k = s["width"], s["body"], s["head"]
    g = 0.26
    z = g + h
    leg = moved(box(w * 0.34, 0.26, g + 0.02), (w * 0.25, 0, 0))
    arm = joined(
        moved(box(0.14, 0.18, h * 0.72, 1.0), (w / 2 + 0.08, 0, g + h * 0.22)),
        moved(ball(0.1, sections=14), (w / 2 + 0.08, 0, g + h * 0.2)),
    )
    eye = moved(
        lathe([(0, 0), (0.075, 0), (0.075, 0.05), (0, 0.05)], 16),
        (k * 0.25, -k * 0.36, z + 0.05 + k * 0.5),
        ("x", 90),
    )
    mouth = moved(box(k * 0.5, 0.04, 0.05), (0, -k * 0.37, z + 0.05 + k * 0.17))
    antenna = joined(
        moved(box(0.045, 0.045, 0.14), (0, 0, z + 0.04 + k * 0.75)),
        moved(ball(0.085, sections=16), (0, 0, z + k * 0.75 + 0.22)),
    )
    parts = {
        "body": (moved(box(w, 0.42, h), (0, 0, g)), "box"),
        "head": (moved(box(k, k * 0.74, k * 0.76), (0, 0, z + 0.04)), "box"),
        "arms": (mirrored(arm), "box"),
        "legs": (mirrored(leg), "box"),
        "antenna": (antenna, "round"),
        "eyes": (joined(mirrored(eye), mouth), "box"),
    }
    return Built(parts, (0, 0, z + k * 0.8), k * 0.42, (0, 0, z), (w * 0.36, 0.2), True)


def _boat(s: dict[str, float]) -> Built:
    length, h = s["length"], 0.3
    plan = [(-0.95, 0.62), (-0.5, 0.95), (0.1, 1.0), (0.6, 0.7), (1.0, 0.0)]
    hull = _hull(plan, length / 2, 0.24, h)
    m = s["mast"]
    mast = moved(lathe([(0, 0), (0.04, 0), (0.04, m + 0.06), (0, m + 0.06)], 12), (0, 0, h * 0.8))
    sail = prism([(0.05, h + 0.1), (length * 0.46, h + 0.12), (0.05, h + m - 0.04)], 0.05)
    jib = prism([(-0.05, h + 0.1), (-length * 0.4, h + 0.14), (-0.05, h + m * 0.85)], 0.05)
    parts = {
        "hull": (hull, "box"),
        "sail": (sail, "box"),
        "jib": (jib, "box"),
        "mast": (mast, "round"),
    }
    return Built(parts, (0, 0, h * 0.8 + m), 0.15, (0, 0, h * 0.55), (length * 0.36, 0.22))


def _hull(plan: list[tuple[float, float]], half: float, wide: float, high: float) -> Mesh:
    """A boat hull: the deck outline ``plan`` (along, across in -1..1), narrower at the keel."""
    outline = plan + [(x, -y) for x, y in reversed(plan[:-1])]
    deck = np.array([(x * half, y * wide, high) for x, y in outline])
    keel = deck * [0.78, 0.55, 0.0]
    n = len(deck)
    faces = []
    for k in range(n):
        j = (k + 1) % n
        faces += [[k, j, n + j], [k, n + j, n + k]]
    faces += [[0, k, k + 1] for k in range(1, n - 1)] + [
        [n, n + k, n + k + 1] for k in range(1, n - 1)
    ]
    return flat_shaded(np.concatenate([deck, keel]), np.array(faces))


BUILT: tuple[Category, ...] = (
    Category(
        "house",
        ("walls", "roof", "door", "windows", "chimney"),
        {"depth": (0.62, 0.8), "walls": (0.5, 0.64), "roof": (0.34, 0.5)},
        _house,
        ("walls", "roof"),
        yaw=18.0,
    ),
    Category(
        "car",
        ("body", "cabin", "wheels", "windows"),
        {"length": (1.1, 1.35), "cabin": (0.5, 0.66), "tall": (0.24, 0.34)},
        _car,
        ("body", "cabin"),
        {"lights": "yellow"},
        yaw=45.0,
    ),
    Category(
        "train",
        ("boiler", "cab", "roof", "chimney", "wheels"),
        {"boiler": (0.75, 0.95), "cab": (0.56, 0.68)},
        _train,
        ("boiler", "cab"),
        {"light": "yellow"},
        yaw=45.0,
    ),
    Category(
        "robot",
        ("body", "head", "arms", "legs", "antenna"),
        {"width": (0.5, 0.64), "body": (0.44, 0.56), "head": (0.4, 0.52)},
        _robot,
        ("body",),
        {"eyes": "black"},
    ),
    Category(
        "boat",
        ("hull", "sail", "jib"),
        {"length": (1.1, 1.35), "mast": (0.75, 0.95)},
        _boat,
        ("hull", "sail"),
        {"mast": "brown"},
    ),
)
