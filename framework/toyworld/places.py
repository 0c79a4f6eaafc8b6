"""The places of the toy world: procedural grounds and skies as pure numpy functions."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def _linear(r: int, g: int, b: int) -> np.ndarray:
    """sRGB bytes -> linear light (gamma 2), float32 (3,)."""
    return (np.array([r, g, b], dtype=np.float32) / 255.0) ** 2


# place -> (zenith, horizon, skyline colour or None, skyline height in radians)
_SKIES = {
    "grass": (_linear(74, 150, 232), _linear(206, 232, 250), _linear(70, 128, 84), 0.05),
    "snow": (_linear(150, 178, 214), _linear(232, 238, 246), _linear(96, 122, 128), 0.06),
    "beach": (_linear(56, 156, 240), _linear(196, 236, 252), _linear(24, 132, 190), 0.0),
    "brick road": (_linear(244, 150, 96), _linear(255, 224, 168), _linear(150, 104, 110), 0.05),
    "water": (_linear(96, 176, 244), _linear(226, 242, 252), None, 0.0),
    "moon": (_linear(4, 4, 14), _linear(14, 14, 34), None, 0.0),
    "wooden floor": (_linear(214, 226, 206), _linear(190, 206, 182), _linear(238, 238, 230), 0.045),
    "purple rug": (_linear(250, 236, 196), _linear(240, 216, 168), _linear(140, 92, 60), 0.045),
    "tiled floor": (_linear(250, 206, 214), _linear(240, 178, 192), _linear(250, 246, 244), 0.045),
    "flowers": (_linear(92, 178, 244), _linear(238, 246, 255), _linear(92, 150, 70), 0.04),
    "leaves": (_linear(176, 176, 190), _linear(232, 220, 204), _linear(122, 70, 44), 0.1),
}
_INDOORS = ("wooden floor", "purple rug", "tiled floor")


@lru_cache(maxsize=1)
def _noise_table() -> np.ndarray:
    """A tileable cloud texture, float32 (256, 256), about zero mean and unit variance."""
    frequency = np.fft.fftfreq(256) * 256.0
    radius = np.hypot(frequency[:, None], frequency[None])
    spectrum = np.fft.fft2(np.random.default_rng(7).standard_normal((256, 256)))
    table = np.fft.ifft2(spectrum / np.maximum(radius, 4.0) ** 1.3).real
    return ((table - table.mean()) / table.std()).astype(np.float32)


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth noise of about unit variance; one texture tile covers a square of side 4."""
    table = _noise_table()
    x, y = x * 64.0, y * 64.0
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    c0, r0 = column.astype(np.int64) & 255, row.astype(np.int64) & 255
    c1, r1 = (c0 + 1) & 255, (r0 + 1) & 255
    top = table[r0, c0] * (1 - fx) + table[r0, c1] * fx
    low = table[r1, c0] * (1 - fx) + table[r1, c1] * fx
    return top * (1 - fy) + low * fy


def _mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Blends colours: 0 gives ``a``, 1 gives ``b``."""
    return a + (b - a) * t[:, None].astype(np.float32)


def _random(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random number in 0..1 for every pair of whole numbers."""
    value = np.sin(i * 127.1 + j * 311.7) * 43758.5453
    return value - np.floor(value)


def sky(place: str, direction: np.ndarray) -> np.ndarray:
    """Colour of the sky or the wall.

    Args:
        place: A place of :data:`framework.toyworld.scene.PLACES`.
        direction: Unit view directions in the view frame (x right, y away, z up), (N, 3).

    Returns:
        Linear RGB, float32 (N, 3).
    """
    zenith, horizon, line, height = _SKIES[place]
    up = direction[:, 2]
    azimuth = np.arctan2(direction[:, 0], direction[:, 1])
    colour = _mix(horizon, zenith, np.clip(up / 0.32, 0, 1) ** 0.7)
    if place == "moon":
        cell = np.stack([np.floor(azimuth * 60), np.floor(up * 60)])
        star = _random(cell[0], cell[1]) > 0.95
        colour = np.where(star[:, None], np.float32(0.8), colour)
    elif place in _INDOORS:
        if place == "purple rug":
            stripe = np.floor(azimuth * 9.0) % 2 == 0
            colour = colour * np.where(stripe, 1.0, 0.86)[:, None].astype(np.float32)
        colour = np.where((up < height)[:, None], line, colour)
    elif place != "water":
        cloud = noise(azimuth * 1.1 + 0.4, up * 3.2 + 0.9)
        colour = _mix(colour, np.float32(1.0), np.clip(cloud * 0.7 - 0.25, 0, 0.75))
    if line is not None and place not in _INDOORS:
        edge = height * (1.0 + 0.45 * np.sin(azimuth * 5 + 1) + 0.3 * np.sin(azimuth * 13))
        if place in ("snow", "leaves"):
            edge = edge + 0.05 * np.abs((azimuth * 14) % 1.0 - 0.5)
        shade = _mix(line, line * 0.6 + horizon * 0.4, np.clip(1 - up / 0.1, 0, 1))
        colour = np.where((up < edge)[:, None], shade, colour)
    return colour.astype(np.float32)


def ground(place: str, x: np.ndarray, y: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Albedo of the ground.

    Args:
        place: A place of :data:`framework.toyworld.scene.PLACES`.
        x: Position to the right, object heights, (N,).
        y: Position away from the camera, object heights, (N,).
        footprint: Size of a pixel on the ground, object heights, (N,); fades fine texture.

    Returns:
        Linear RGB, float32 (N, 3).
    """
    fine = 1.0 / (1.0 + (footprint * 14.0) ** 2)
    return _GROUNDS[place](x, y, fine).astype(np.float32)


def _grass(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    n = noise(x * 0.7, y * 0.4) * 0.5 + noise(x * 5.0, y * 2.2) * 0.9 * fine
    return _mix(_linear(52, 132, 40), _linear(132, 190, 62), np.clip(0.5 + 0.25 * n, 0, 1))


def _snow(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    n = noise(x * 0.5, y * 0.9)
    return _mix(_linear(206, 220, 240), _linear(252, 253, 255), np.clip(0.6 + 0.3 * n, 0, 1))


def _beach(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    n = np.sin(y * 11 + 1.5 * np.sin(x * 1.3) + noise(x * 0.5, y * 0.5)) * fine
    sand = _mix(_linear(222, 188, 122), _linear(248, 224, 164), np.clip(0.5 + 0.28 * n, 0, 1))
    shore = 3.4 + 0.3 * np.sin(x * 0.8)
    sea = _mix(_linear(40, 180, 206), _linear(24, 120, 190), np.clip((y - shore) / 5, 0, 1))
    foam = np.abs(y - shore) < 0.18
    return np.where(foam[:, None], np.float32(0.95), np.where((y > shore)[:, None], sea, sand))


def _bricks(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    row = np.floor(y / 0.3)
    u = x / 0.62 + 0.5 * (row % 2)
    column = np.floor(u)
    du, dv = u - column, y / 0.3 - row
    mortar = ((du < 0.07) | (dv < 0.13)).astype(np.float32)
    brick = _mix(_linear(158, 58, 42), _linear(206, 96, 66), _random(row, column))
    return _mix(brick, _linear(222, 206, 186), mortar * np.clip(fine * 1.3, 0.15, 1.0))


def _water(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    wave = np.sin(x * 3 + 2.0 * np.sin(y * 1.7)) + np.sin(y * 9 + 2.2 * np.sin(x * 1.6 + 0.5))
    wave = wave * 0.5 * np.sqrt(fine)
    colour = _mix(_linear(16, 84, 178), _linear(46, 142, 220), np.clip(0.5 + 0.5 * wave, 0, 1))
    return _mix(colour, np.float32(0.9), np.clip((wave - 0.78) * 4, 0, 0.8))


def _moon(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    n = noise(x * 0.6, y * 0.6)
    colour = _mix(_linear(112, 112, 118), _linear(176, 176, 178), np.clip(0.5 + 0.25 * n, 0, 1))
    i, j = np.floor(x / 1.3), np.floor(y / 1.3)
    du = x / 1.3 - i - 0.35 - 0.3 * _random(i, j)
    dv = y / 1.3 - j - 0.35 - 0.3 * _random(j, i + 5)
    distance = np.hypot(du, dv) / (0.14 + 0.16 * _random(i + 3, j))
    bowl = np.where(distance < 1, 0.55 + 0.25 * dv / 0.3, np.where(distance < 1.25, 1.25, 1.0))
    return colour * bowl[:, None]


def _wood(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    plank = np.floor(x / 0.42)
    along = y + 3 * _random(plank, plank * 0 + 2)
    seam = ((x / 0.42 - plank < 0.06) | ((along / 2.4) % 1.0 < 0.012)).astype(np.float32)
    grain = noise(x * 2.5, along * 0.16) * 0.22 + 0.7 * _random(plank, np.floor(along / 2.4)) + 0.1
    colour = _mix(_linear(150, 92, 48), _linear(206, 146, 88), np.clip(grain, 0, 1))
    return _mix(colour, _linear(84, 46, 22), seam * np.clip(fine * 1.2, 0.2, 1))


def _rug(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    radius = np.hypot(x, y)
    ring = np.floor(radius / 0.36) % 2 == 0
    rug = np.where(ring[:, None], _linear(116, 52, 158), _linear(176, 112, 208))
    rug = np.where(((radius > 1.62) & (radius < 1.8))[:, None], _linear(240, 204, 92), rug)
    rug = rug * (1 + 0.08 * noise(x * 6, y * 6) * fine)[:, None]
    return np.where((radius < 1.8)[:, None], rug, _linear(196, 160, 120))


def _tiles(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    u, v = x / 0.62, y / 0.62
    checker = (np.floor(u) + np.floor(v)) % 2
    colour = _mix(_linear(232, 244, 244), _linear(108, 190, 196), 0.5 + (checker - 0.5) * fine**0.5)
    grout = (u - np.floor(u) < 0.04) | (v - np.floor(v) < 0.04)
    return _mix(colour, _linear(150, 160, 164), grout * fine)


def _meadow(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    colour = _mix(
        _linear(62, 140, 50), _linear(110, 182, 74), np.clip(0.5 + 0.3 * noise(x * 2, y), 0, 1)
    )
    petals = (_linear(250, 110, 160), _linear(255, 236, 110))
    for k, petal in enumerate(petals):
        u, v = x / 0.7 + 0.37 * k, y / 0.7 + 0.71 * k
        i, j = np.floor(u), np.floor(v)
        du = u - i - 0.3 - 0.4 * _random(i + k, j)
        dv = v - j - 0.3 - 0.4 * _random(j, i + 2 * k)
        colour = _mix(colour, petal, (np.hypot(du, dv) < 0.15) * np.clip(fine * 1.5, 0.3, 1))
    return colour


def _leaves(x: np.ndarray, y: np.ndarray, fine: np.ndarray) -> np.ndarray:
    colour = _mix(_linear(96, 62, 34), _linear(140, 92, 48), np.clip(0.5 + 0.3 * noise(x, y), 0, 1))
    hues = (_linear(214, 104, 34), _linear(222, 152, 52))
    for k, hue in enumerate(hues):
        u, v = x / 0.5 + 0.43 * k, y / 0.5 + 0.29 * k
        i, j = np.floor(u), np.floor(v)
        du = u - i - 0.25 - 0.5 * _random(i + k, j)
        dv = v - j - 0.25 - 0.5 * _random(j, i + 2 * k)
        turn = 6.28 * _random(i, j + k)
        a, b = du * np.cos(turn) - dv * np.sin(turn), du * np.sin(turn) + dv * np.cos(turn)
        colour = _mix(
            colour, hue, (np.abs(a) * 1.4 + np.abs(b) * 2.6 < 0.42) * np.clip(fine * 1.5, 0.35, 1)
        )
    return colour


_GROUNDS = {
    "grass": _grass,
    "snow": _snow,
    "beach": _beach,
    "brick road": _bricks,
    "water": _water,
    "moon": _moon,
    "wooden floor": _wood,
    "purple rug": _rug,
    "tiled floor": _tiles,
    "flowers": _meadow,
    "leaves": _leaves,
}
