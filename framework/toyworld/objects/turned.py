"""Turned (lathed) objects: mug, vase, teapot, lamp, mushroom, snowman, rocket."""

from __future__ import annotations

import numpy as np

from framework.toyworld.objects.category import Built, Category
from framework.toyworld.objects.shapes import arc, ball, box, joined, lathe, mirrored, moved, tube


def _mug(s: dict[str, float]) -> Built:
    h, r = s["height"], 0.5
    body = lathe([(0, 0), (r * 0.9, 0), (r, 0.06), (r, h), (r - 0.07, h)])
    inside = lathe([(r - 0.07, h), (r - 0.08, h - 0.16), (0, h - 0.16)])
    k = s["handle"]
    loop = tube(arc(k, h * 0.33, -90, 90) + [r - 0.03, 0, h * 0.5], 0.085)
    parts = {"body": (body, "round"), "handle": (loop, "round"), "inside": (inside, "round")}
    return Built(parts, (0, 0, h), r * 0.9, (0, 0, h * 0.3), (r, r))


def _vase(s: dict[str, float]) -> Built:
    h, belly = 1.1, s["belly"]
    z = np.linspace(0, 1, 14)
    r = 0.26 + (belly - 0.2) * np.sin(np.pi * z ** s["rise"]) ** 1.3
    body = lathe(
        [(0, 0.1)] + [(float(a), 0.1 + 0.72 * h * float(b)) for a, b in zip(r, z, strict=True)]
    )
    t = 0.1 + 0.72 * h
    lip = s["lip"]
    neck = lathe(
        [
            (0.25, t),
            (0.2, t + 0.1),
            (0.22, t + 0.2),
            (lip, t + 0.3),
            (lip - 0.06, t + 0.3),
            (0.15, t + 0.15),
            (0, t + 0.1),
        ]
    )
    base = lathe([(0, 0), (0.36, 0), (0.36, 0.07), (0.26, 0.12), (0, 0.12)])
    parts = {"body": (body, "round"), "neck": (neck, "round"), "base": (base, "round")}
    return Built(parts, (0, 0, t + 0.29), lip, (0, 0, t + 0.06), (0.22, 0.22))


def _teapot(s: dict[str, float]) -> Built:
    w, h = 0.56, s["height"]
    body = moved(ball(w, w, h / 2), (0, 0, h / 2))
    foot = lathe([(0, 0), (0.3, 0), (0.3, 0.04), (0, 0.08)])
    lid = joined(
        lathe([(0.33, h - 0.09), (0.32, h - 0.02), (0.18, h + 0.06), (0, h + 0.09)]),
        moved(ball(0.1), (0, 0, h + 0.14)),
    )
    k = s["spout"]
    spout = tube(
        [(-0.4, 0, h * 0.32), (-0.62, 0, h * 0.42), (-0.74, 0, h * 0.68), (-0.82 - k, 0, h * 0.95)],
        [0.17, 0.13, 0.1, 0.085],
    )
    handle = tube(arc(0.36, h * 0.36, -95, 95) + [0.5, 0, h * 0.5], 0.075)
    parts = {
        "body": (joined(body, foot), "round"),
        "lid": (lid, "round"),
        "spout": (spout, "round"),
        "handle": (handle, "round"),
    }
    return Built(parts, (0, 0, h + 0.2), 0.28, (0, 0, h * 0.3), (w * 0.93, w * 0.93))


def _lamp(s: dict[str, float]) -> Built:
    r, t = s["shade"], s["top"]
    shade = lathe([(r - 0.04, 0.55), (r, 0.53), (t, 1.15), (t - 0.04, 1.15), (0, 1.12)])
    stand = lathe(
        [(0.085, 0.08), (0.16, 0.2), (0.17, 0.32), (0.085, 0.44), (0.075, 0.62), (0, 0.62)]
    )
    base = lathe([(0, 0), (0.36, 0), (0.36, 0.06), (0.12, 0.12), (0, 0.12)])
    parts = {"shade": (shade, "round"), "stand": (stand, "round"), "base": (base, "round")}
    return Built(parts, (0, 0, 1.14), t, (0, 0, 0.4), (0.14, 0.14))


def _mushroom(s: dict[str, float]) -> Built:
    r, h = s["cap"], s["stem"]
    angle = np.linspace(0, np.pi / 2, 10)
    dome = [(r * float(np.cos(a)), h + 0.5 * float(np.sin(a))) for a in angle]
    cap = lathe([(0.18, h + 0.04), (r * 0.9, h - 0.05)] + dome)
    stem = lathe([(0, 0), (0.29, 0), (0.27, 0.12), (0.2, h * 0.6), (0.22, h + 0.05)])
    ring = lathe([(0.2, h * 0.55), (0.33, h * 0.5), (0.33, h * 0.58), (0.2, h * 0.68)])
    parts = {"cap": (cap, "round"), "stem": (stem, "round"), "ring": (ring, "round")}
    return Built(parts, (0, 0, h + 0.48), 0.28, (0, 0, h * 0.35), (0.24, 0.24))


def _snowman(s: dict[str, float]) -> Built:
    a, b, c = s["bottom"], s["middle"], 0.25
    z1, z2 = a * 0.92, a * 1.75 + b * 0.6
    z3 = z2 + b * 0.72 + c * 0.7
    eye = moved(ball(0.045, sections=12), (0.085, -c * 0.86, z3 + 0.06))
    nose = moved(lathe([(0, 0), (0.065, 0), (0, 0.26)], 14), (0, -c * 0.8, z3 - 0.02), ("x", 90))
    buttons = joined(
        *(
            moved(ball(0.05, sections=12), (0, -b * float(np.cos(t)), z2 + b * float(np.sin(t))))
            for t in (-0.35, 0.25)
        )
    )
    parts = {
        "body": (moved(ball(a), (0, 0, z1)), "round"),
        "belly": (moved(ball(b), (0, 0, z2)), "round"),
        "head": (moved(ball(c), (0, 0, z3)), "round"),
        "nose": (nose, "round"),
        "eyes": (joined(mirrored(eye), buttons), "round"),
    }
    return Built(parts, (0, 0, z3 + c * 0.86), 0.2, (0, 0, (z2 + z3) / 2 + 0.03), (0.19, 0.19))


def _rocket(s: dict[str, float]) -> Built:
    r, h = s["radius"], s["height"]
    body = lathe([(0, 0.12), (r * 0.75, 0.12), (r * 0.95, 0.3), (r, 0.5), (r, h)])
    angle = np.linspace(0, 1, 8)
    nose = lathe([(r * (1 - float(t) ** 1.7), h + 0.42 * float(t)) for t in angle])
    k = s["fins"]
    fin = moved(box(k + 0.06, 0.08, 0.4, 0.45), (r + k / 2 - 0.1, 0, 0))
    fins = joined(*(moved(fin, turn=("z", 45 + 90 * q)) for q in range(4)))
    rim = moved(
        lathe([(0, 0), (0.15, 0), (0.15, 0.06), (0, 0.06)], 20), (0, -r + 0.03, h * 0.78), ("x", 90)
    )
    parts = {
        "body": (body, "round"),
        "nose": (nose, "round"),
        "fins": (fins, "round"),
        "window": (rim, "round"),
    }
    return Built(parts, (0, 0, h + 0.36), 0.16, (0, 0, h * 0.5), (r, r))


TURNED: tuple[Category, ...] = (
    Category(
        "mug",
        ("body", "handle", "inside"),
        {"height": (0.8, 1.1), "handle": (0.24, 0.36)},
        _mug,
        ("body",),
    ),
    Category(
        "vase",
        ("body", "neck", "base"),
        {"belly": (0.4, 0.56), "rise": (0.7, 1.5), "lip": (0.26, 0.38)},
        _vase,
        ("body",),
    ),
    Category(
        "teapot",
        ("body", "lid", "spout", "handle"),
        {"height": (0.72, 0.95), "spout": (0.0, 0.12)},
        _teapot,
        ("body",),
    ),
    Category(
        "lamp",
        ("shade", "stand", "base"),
        {"shade": (0.44, 0.56), "top": (0.2, 0.34)},
        _lamp,
        ("shade",),
    ),
    Category(
        "mushroom",
        ("cap", "stem", "ring"),
        {"cap": (0.46, 0.6), "stem": (0.4, 0.55)},
        _mushroom,
        ("cap",),
    ),
    Category(
        "snowman",
        ("body", "belly", "head", "nose"),
        {"bottom": (0.4, 0.47), "middle": (0.3, 0.36)},
        _snowman,
        ("body", "belly"),
        {"eyes": "black"},
    ),
    Category(
        "rocket",
        ("body", "nose", "fins", "window"),
        {"radius": (0.29, 0.36), "height": (0.78, 0.95), "fins": (0.22, 0.32)},
        _rocket,
        ("body",),
    ),
)
