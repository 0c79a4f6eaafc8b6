"""Ray-cast renders of scenes with ground-truth masks, parts and object-space coordinates.

View frame: x right, y away from the camera, z up, object standing on z = 0 about the origin,
lengths in object heights (largest extent of the object = 1). Pixel positions count from the
centre of the top left pixel: the centre of row i, column j is (x, y) = (j, i).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from framework.toyworld.camera import Camera, place_camera
from framework.toyworld.objects import build
from framework.toyworld.objects.shapes import rotation_about
from framework.toyworld.raycast import ACCESSORY, BACKGROUND, OCCLUDER, World, scene_layers
from framework.toyworld.scene import SceneSpec
from framework.toyworld.shading import shade

__all__ = ["ACCESSORY", "BACKGROUND", "OCCLUDER", "Camera", "Render", "render", "visible_points"]

_SURFACE_SLACK = 5e-3


@dataclass(frozen=True)
class Render:
    """A render with its ground truth, each sampled at the pixel centres.

    Attributes:
        rgb: uint8 (S, S, 3), sRGB.
        mask: bool (S, S), the visible part of the object (no accessory, no occluder).
        parts: int16 (S, S): 0 background, 1.. the object's parts in the order of
            ``part_names``, -1 accessory, -2 occluder.
        coords: float32 (S, S, 3), object-space coordinates in object heights (right, back, up);
            NaN outside the object.
        depth: float32 (S, S), depth of whatever mesh is seen; inf for ground and sky.
        camera: The camera.
        part_names: Names of the object's parts.
        scene: What was rendered.
    """

    rgb: np.ndarray
    mask: np.ndarray
    parts: np.ndarray
    coords: np.ndarray
    depth: np.ndarray
    camera: Camera
    part_names: tuple[str, ...]
    scene: SceneSpec


def render(scene: SceneSpec, size: int = 128) -> Render:
    """Renders a scene, deterministically.

    Args:
        scene: What to render.
        size: Width and height in pixels.

    Returns:
        The picture and its ground truth.
    """
    rotation = rotation_about("z", -scene.azimuth)
    built = build(scene.object.category, scene.object.shape)
    layers = scene_layers(scene, built, rotation)
    camera = place_camera(scene, layers, rotation, size)
    world = World(layers, rotation)
    axis = np.arange(size, dtype=float)
    centres = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    offsets = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
    samples = (centres[:, None] + offsets).reshape(-1, 2)
    linear = shade(scene, layers, world, camera, camera.rays(samples))
    picture = np.sqrt(np.clip(linear.reshape(size, size, 4, 3).mean(2), 0.0, 1.0))
    direction = camera.rays(centres)
    hit = world.first_hit(camera.position, direction)
    found = hit["primID"] >= 0
    idents = np.array([p.ident for p in layers])
    parts = np.where(found, idents[world.layer[hit["primID"]]], BACKGROUND).astype(np.int16)
    reach = np.where(found, hit["tfar"], np.inf)
    depth = reach * (direction @ camera.axes[2])
    mask = parts > 0
    coords = np.full((size * size, 3), np.nan, dtype=np.float32)
    points = camera.position + direction[mask] * reach[mask, None]
    coords[mask] = points @ rotation
    return Render(
        rgb=np.round(picture * 255.0).astype(np.uint8),
        mask=mask.reshape(size, size),
        parts=parts.reshape(size, size),
        coords=coords.reshape(size, size, 3),
        depth=depth.reshape(size, size).astype(np.float32),
        camera=camera,
        part_names=tuple(built.parts),
        scene=scene,
    )


def visible_points(view: Render, points: np.ndarray) -> np.ndarray:
    """Whether points of the object's surface lie in a render's frame with nothing before them.

    Args:
        view: The render.
        points: Object-space points on the surface, (N, 3), object heights.

    Returns:
        Bool (N,).
    """
    camera, rotation = view.camera, view.camera.rotation
    built = build(view.scene.object.category, view.scene.object.shape)
    world = World(scene_layers(view.scene, built, rotation), rotation)
    xy, depth = camera.project(points)
    reach = points @ rotation.T - camera.position
    distance = np.linalg.norm(reach, axis=1)
    hit = world.first_hit(camera.position, reach / distance[:, None])["tfar"]
    inside = (xy > -0.5).all(1) & (xy < view.mask.shape[0] - 0.5).all(1) & (depth > 0)
    return inside & (hit > distance - _SURFACE_SLACK)
