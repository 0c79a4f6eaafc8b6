"""What a scene is made of, as meshes in one ray-casting structure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from framework.toyworld.objects import Built
from framework.toyworld.objects.shapes import Mesh
from framework.toyworld.palette import rgb
from framework.toyworld.props import accessory_props, occluder_props
from framework.toyworld.scene import SceneSpec

BACKGROUND, ACCESSORY, OCCLUDER = 0, -1, -2
"""Values of ``Render.parts`` outside the object, whose parts count from 1."""

_EXTRA = {"gray": (128, 128, 132), "leaf": (72, 186, 84)}


class Layer(NamedTuple):
    """Everything of one colour scheme: a part, an accessory or an occluder."""

    mesh: Mesh
    ident: int
    colours: tuple[np.ndarray, np.ndarray]
    pattern: str
    mapping: str
    low: np.ndarray
    high: np.ndarray


def _colour(name: str) -> np.ndarray:
    if name in _EXTRA:
        return (np.array(_EXTRA[name], dtype=np.float32) / 255.0) ** 2
    return rgb(name)


def scene_layers(scene: SceneSpec, built: Built, rotation: np.ndarray) -> list[Layer]:
    """The meshes of a scene, object parts in object space, the rest in the view frame."""
    layers = []
    for ident, (name, (mesh, mapping)) in enumerate(built.parts.items(), start=1):
        style = scene.object.parts[name]
        colours = (_colour(style.colour), _colour(style.colour2))
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        layers.append(Layer(mesh, ident, colours, style.pattern, mapping, low, high))
    props = []
    if scene.accessory is not None:
        props += [(p, ACCESSORY) for p in accessory_props(scene.accessory, built, rotation)]
    if scene.occluder is not None:
        side = 1.0 if scene.light > 0 else -1.0
        props += [(p, OCCLUDER) for p in occluder_props(scene.occluder, built, rotation, side)]
    for (mesh, first, second), ident in props:
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        pattern = "solid" if first == second else "rings"
        colours = (_colour(first), 0.5 * _colour(first) + 0.5 * _colour(second))
        layers.append(Layer(mesh, ident, colours, pattern, "box", low, high))
    return layers


class World:
    """The meshes of a scene in one ray-casting structure."""

    def __init__(self, layers: list[Layer], rotation: np.ndarray) -> None:
        turned = [p.mesh.vertices @ rotation.T if p.ident > 0 else p.mesh.vertices for p in layers]
        offset = np.cumsum([0] + [len(v) for v in turned[:-1]])
        faces = np.concatenate([p.mesh.faces + o for p, o in zip(layers, offset, strict=True)])
        self.vertices = np.concatenate(turned).astype(np.float32)
        self.normals = np.concatenate(
            [p.mesh.normals @ rotation.T if p.ident > 0 else p.mesh.normals for p in layers]
        ).astype(np.float32)
        self.layer = np.repeat(np.arange(len(layers)), [len(p.mesh.faces) for p in layers])
        self.scene = EmbreeScene()
        TriangleMesh(self.scene, self.vertices, faces.astype(np.int32))
        self.faces = faces

    def first_hit(self, origin: np.ndarray, direction: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest hits of rays from one point: ``tfar``, ``primID`` (-1: none), ``u``, ``v``."""
        start = np.broadcast_to(origin.astype(np.float32), direction.shape).copy()
        return self.scene.run(start, direction.astype(np.float32), output=1, query="INTERSECT")

    def shadowed(self, points: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Whether rays from points (N, 3) along ``direction`` (N, 3) meet anything, bool (N,)."""
        hit = self.scene.run(
            points.astype(np.float32), direction.astype(np.float32), query="OCCLUDED"
        )
        return hit >= 0
