"""Colours of view rays: albedo, sun with soft shadow, ambient light, gloss, haze."""

from __future__ import annotations

import numpy as np

from framework.toyworld.camera import Camera
from framework.toyworld.palette import pattern_mask
from framework.toyworld.places import ground, sky
from framework.toyworld.raycast import Layer, World
from framework.toyworld.scene import SceneSpec

_UNSHADOWED_BIAS = 2e-3


def shade(
    scene: SceneSpec, layers: list[Layer], world: World, camera: Camera, rays: np.ndarray
) -> np.ndarray:
    """Colours of view rays.

    Args:
        scene: The scene; its place and light are used.
        layers: What the scene is made of.
        world: The same for ray casting.
        camera: Where the rays start.
        rays: Unit view-frame directions, (N, 3), four consecutive ones a pixel: each of the four
            has a slightly different sun, which softens shadows.

    Returns:
        Linear RGB, float32 (N, 3).
    """
    rays = rays.astype(np.float32)
    origin = camera.position.astype(np.float32)
    out = np.empty((len(rays), 3), dtype=np.float32)
    hit = world.first_hit(origin, rays)
    on_mesh = hit["primID"] >= 0
    down = ~on_mesh & (rays[:, 2] < -0.004)
    above = ~on_mesh & ~down
    out[above] = sky(scene.place, rays[above])
    sun = _suns(scene.light, scene.place)
    index = np.flatnonzero(down)
    if len(index):
        reach = -origin[2] / rays[index, 2]
        points = origin + rays[index] * reach[:, None]
        pixel = reach / camera.focal
        footprint = pixel / np.maximum(-rays[index, 2], 0.05)
        shift = 0.0 if scene.place in ("purple rug", "beach") else scene.azimuth * 0.031
        albedo = ground(scene.place, points[:, 0] + shift, points[:, 1] + shift, footprint)
        near = np.flatnonzero(np.hypot(points[:, 0], points[:, 1]) < 4.0)
        lit = np.ones(len(index), dtype=np.float32)
        lifted = points[near] + np.array([0, 0, _UNSHADOWED_BIAS], dtype=np.float32)
        lit[near] = ~world.shadowed(lifted, sun[index[near] % 4])
        spread = (points[:, 0] ** 2 + points[:, 1] ** 2) / 0.3
        ambient = 0.48 * (1.0 - 0.35 * np.exp(-spread))
        light = ambient + 0.62 * lit
        haze = 1.0 - np.exp(-((reach / 30.0) ** 2))
        far = sky(scene.place, np.array([[0.0, 1.0, 0.06]], dtype=np.float32))
        out[index] = albedo * light[:, None] * (1 - haze[:, None]) + far * haze[:, None]
    index = np.flatnonzero(on_mesh)
    if len(index):
        out[index] = _shade_meshes(layers, world, camera, rays, hit, index, sun)
    return out


def _suns(azimuth: float, place: str) -> np.ndarray:
    """Four unit directions (4, 3) to a sun that is not quite a point."""
    wobble = np.array([[0.05, 0.0], [0.0, 0.05], [-0.05, 0.0], [0.0, -0.05]])
    a, e = np.radians(azimuth), np.radians(34.0 if place == "moon" else 50.0)
    a, e = a + wobble[:, 0], e + wobble[:, 1]
    sun = [np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)]
    return np.stack(sun, axis=1).astype(np.float32)


def _shade_meshes(
    layers: list[Layer],
    world: World,
    camera: Camera,
    rays: np.ndarray,
    hit: dict[str, np.ndarray],
    index: np.ndarray,
    sun: np.ndarray,
) -> np.ndarray:
    """Linear RGB of the rays ``index`` that hit a mesh."""
    face = hit["primID"][index]
    view = rays[index]
    points = camera.position.astype(np.float32) + view * hit["tfar"][index, None]
    u, v = hit["u"][index, None], hit["v"][index, None]
    corners = world.normals[face]
    normal = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    flip = np.einsum("ij,ij->i", normal, view) > 0.25
    normal[flip] *= -1.0
    albedo = np.empty((len(index), 3), dtype=np.float32)
    layer = world.layer[face]
    turn = camera.rotation.astype(np.float32)
    for k, part in enumerate(layers):
        here = np.flatnonzero(layer == k)
        if not len(here):
            continue
        first, second = part.colours
        if part.pattern == "solid":
            albedo[here] = first
            continue
        place, facing = points[here], normal[here]
        if part.ident > 0:
            place, facing = place @ turn, facing @ turn
        painted = pattern_mask(part.pattern, place, facing, part.mapping, part.low, part.high)
        albedo[here] = np.where(painted[:, None], second, first)
    light = sun[index % 4]
    cosine = np.clip(np.einsum("ij,ij->i", normal, light), 0.0, 1.0)
    lifted = points + normal * _UNSHADOWED_BIAS + light * _UNSHADOWED_BIAS
    lit = cosine * ~world.shadowed(lifted, light)
    ambient = 0.40 + 0.16 * normal[:, 2] - 0.1 * normal[:, 1]
    half = light - view
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    gloss = 0.22 * np.clip(np.einsum("ij,ij->i", normal, half), 0, 1) ** 32 * (lit > 0)
    return albedo * (ambient + 0.72 * lit)[:, None] + gloss[:, None].astype(np.float32)
