"""Animals: duck, cat."""

from __future__ import annotations

from framework.toyworld.objects.category import Built, Category
from framework.toyworld.objects.shapes import ball, joined, lathe, mirrored, moved, tube


def _duck(s: dict[str, float]) -> Built:
    a, k = s["body"], s["head"]
    body = joined(
        moved(ball(0.36, a, 0.32), (0, 0.05, 0.32)),
        moved(lathe([(0.2, 0), (0.12, 0.2), (0, 0.3)]), (0, a - 0.14, 0.38), ("x", -58)),
    )
    hz, hy = 0.62 + k, -a * 0.55
    neck = moved(lathe([(0.2, 0), (0.15, 0.15), (0.16, 0.3)], 20), (0, hy + 0.03, 0.44))
    head = joined(moved(ball(k), (0, hy, hz)), neck)
    beak = moved(ball(0.13, 0.2, 0.06, 18), (0, hy - k - 0.06, hz - 0.05))
    wing = moved(moved(ball(0.08, a * 0.55, 0.19), turn=("x", 12)), (0.35, 0.12, 0.36))
    eye = moved(ball(0.055, sections=12), (k * 0.62, hy - k * 0.66, hz + k * 0.35))
    parts = {
        "body": (body, "round"),
        "head": (head, "round"),
        "beak": (beak, "round"),
        "wings": (mirrored(wing), "box"),
        "eyes": (mirrored(eye), "round"),
    }
    return Built(parts, (0, hy, hz + k * 0.86), k * 0.85, (0, hy + 0.03, 0.6), (0.18, 0.18))


def _cat(s: dict[str, float]) -> Built:
    k, h = s["head"], s["body"]
    body = lathe(
        [
            (0, 0),
            (0.3, 0),
            (0.36, 0.1),
            (0.36, 0.25),
            (0.28, h * 0.8),
            (0.16, h + 0.02),
            (0, h + 0.05),
        ]
    )
    hz = h + k * 0.72
    head = moved(ball(k * 1.12, k * 0.95, k * 0.92), (0, -0.04, hz))
    ear = moved(lathe([(0.15, 0), (0, 0.3)], 16), (k * 0.66, -0.02, hz + k * 0.5), ("y", 16))
    tail = tube(
        [
            (0.22, 0.26, 0.08),
            (0.42, 0.28, 0.1),
            (0.54, 0.24, 0.28),
            (0.5, 0.2, 0.5),
            (0.56, 0.18, 0.68),
        ],
        [0.08, 0.085, 0.085, 0.08, 0.07],
    )
    paw = moved(ball(0.12, 0.17, 0.1, 16), (0.16, -0.34, 0.1))
    eye = moved(ball(0.06, 0.04, 0.08, 12), (k * 0.42, -0.04 - k * 0.84, hz + k * 0.14))
    nose = moved(ball(0.05, 0.04, 0.04, 12), (0, -0.05 - k * 0.93, hz - k * 0.14))
    parts = {
        "body": (body, "round"),
        "head": (head, "round"),
        "ears": (mirrored(ear), "round"),
        "tail": (tail, "round"),
        "paws": (mirrored(paw), "round"),
        "eyes": (joined(mirrored(eye), nose), "round"),
    }
    return Built(parts, (0, -0.02, hz + k * 0.84), k * 0.6, (0, -0.01, h + 0.01), (0.19, 0.19))


ANIMALS: tuple[Category, ...] = (
    Category(
        "duck",
        ("body", "head", "beak", "wings"),
        {"body": (0.46, 0.56), "head": (0.24, 0.3)},
        _duck,
        ("body",),
        {"eyes": "black"},
        yaw=40.0,
    ),
    Category(
        "cat",
        ("body", "head", "ears", "tail", "paws"),
        {"head": (0.3, 0.37), "body": (0.56, 0.7)},
        _cat,
        ("body",),
        {"eyes": "black"},
    ),
)
