"""The pinhole camera of a scene and how it is framed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from framework.toyworld.raycast import ACCESSORY, Layer
from framework.toyworld.scene import SceneSpec

_FIELD_OF_VIEW = 38.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in the view frame, looking along +y and down.

    Attributes:
        position: Centre of projection, (3,).
        axes: Rows right, down, forward, (3, 3).
        focal: Focal length, pixels.
        centre: Principal point (x, y), pixels.
        rotation: Object space to view frame, (3, 3).
    """

    position: np.ndarray
    axes: np.ndarray
    focal: float
    centre: tuple[float, float]
    rotation: np.ndarray

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projects object-space points.

        Args:
            points: (..., 3), object heights.

        Returns:
            Pixel positions (..., 2) and depths along the viewing axis (...), object heights.
        """
        return self.project_view(points @ self.rotation.T)

    def project_view(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`project` for points of the view frame."""
        local = (points - self.position) @ self.axes.T
        depth = local[..., 2]
        return local[..., :2] / depth[..., None] * self.focal + np.array(self.centre), depth

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """Unit view-frame directions (N, 3) through pixel positions (N, 2)."""
        flat = (xy - np.array(self.centre)) / self.focal
        direction = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ self.axes
        return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def place_camera(scene: SceneSpec, layers: list[Layer], rotation: np.ndarray, size: int) -> Camera:
    """Places the camera so that the object has the scene's size and position in the frame."""
    own = np.concatenate([p.mesh.vertices for p in layers if p.ident > 0]) @ rotation.T
    worn = [p.mesh.vertices for p in layers if p.ident == ACCESSORY]
    every = np.concatenate([own, *worn])
    e = np.radians(scene.elevation)
    forward = np.array([0.0, np.cos(e), -np.sin(e)])
    down = np.array([0.0, -np.sin(e), -np.cos(e)])
    axes = np.stack([[1.0, 0.0, 0.0], down, forward])
    focal = size / 2 / np.tan(np.radians(_FIELD_OF_VIEW) / 2)
    target = np.array([0.0, 0.0, (own[:, 2].min() + own[:, 2].max()) / 2])
    distance = 2.4
    limit = 0.9 if scene.size < 0.9 else np.inf
    for _ in range(4):
        camera = Camera(target - forward * distance, axes, focal, (0.0, 0.0), rotation)
        extent = np.ptp(camera.project_view(own)[0], axis=0).max() / size
        total = np.ptp(camera.project_view(every)[0], axis=0).max() / size
        distance = max(1.1, distance * max(extent / scene.size, total / limit))
    camera = Camera(target - forward * distance, axes, focal, (0.0, 0.0), rotation)
    xy = camera.project_view(every)[0]
    middle = (xy.min(0) + xy.max(0)) / 2
    if scene.condition in ("left", "right", "close"):
        bare = camera.project_view(own)[0]
        middle = (bare.min(0) + bare.max(0)) / 2
    wanted = (size - 1) / 2 + np.array(scene.position) * size
    centre = wanted - middle
    return Camera(camera.position, axes, focal, (float(centre[0]), float(centre[1])), rotation)
