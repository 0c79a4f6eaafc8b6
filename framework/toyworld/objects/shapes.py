"""Small triangle meshes with shading normals: the building blocks of every object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        vertices: Float (V, 3).
        faces: Vertex indices, int (F, 3).
        normals: Unit shading normal of every corner of every face, float (F, 3, 3).
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray


def flat_shaded(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """A mesh with one normal a face, turned outwards from the centre (convex or star shaped)."""
    corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    inward = np.einsum("ij,ij->i", normal, corner.mean(1) - vertices.mean(0)) < 0
    normal[inward] *= -1.0
    return Mesh(vertices, faces, np.repeat(normal[:, None], 3, axis=1))


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Faces of a (rows, columns) grid of vertices that closes along its columns."""
    row, column = np.mgrid[0 : rows - 1, 0:columns]
    a = row * columns + column
    b = row * columns + (column + 1) % columns
    quads = np.stack([a, b, b + columns, a + columns], axis=-1).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def lathe(profile: list[tuple[float, float]], sections: int = 32) -> Mesh:
    """Turns a profile about the vertical axis.

    Args:
        profile: (radius, height) points; walked so that the outside lies to the right of the
            way (bottom to top on the outer surface). Corners sharper than 45 degrees stay sharp.
        sections: Number of vertices around.

    Returns:
        The surface of revolution.
    """
    line = np.asarray(profile, dtype=float)
    step = np.diff(line, axis=0)
    flat = np.stack([step[:, 1], -step[:, 0]], axis=1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    first, last = flat.copy(), flat.copy()
    soft = np.einsum("ij,ij->i", flat[1:], flat[:-1]) > 0.7
    blend = flat[1:] + flat[:-1]
    blend /= np.maximum(np.linalg.norm(blend, axis=1, keepdims=True), 1e-12)
    first[1:][soft] = blend[soft]
    last[:-1][soft] = blend[soft]
    angle = np.arange(sections) * 2.0 * np.pi / sections
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vertices = np.concatenate(
        [
            line[:, None, :1] * ring[None],
            np.broadcast_to(line[:, None, 1:], (len(line), sections, 1)),
        ],
        axis=2,
    ).reshape(-1, 3)
    faces = _grid_faces(len(line), sections)
    segment = faces.min(axis=1) // sections
    upper = (faces // sections) > segment[:, None]
    two = np.where(upper[..., None], last[segment][:, None], first[segment][:, None])
    around = ring[faces % sections]
    normals = np.concatenate([two[..., :1] * around, two[..., 1:]], axis=2)
    corner = vertices[faces]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    keep = area > 1e-10
    return Mesh(vertices, faces[keep], normals[keep])


def ball(rx: float, ry: float | None = None, rz: float | None = None, sections: int = 28) -> Mesh:
    """An ellipsoid about the origin with the half axes ``rx``, ``ry``, ``rz``."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 15)
    mesh = lathe(list(zip(np.cos(angle), np.sin(angle), strict=True)), sections)
    half = np.array([rx, rx if ry is None else ry, rx if rz is None else rz])
    normals = mesh.vertices[mesh.faces] / half
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    return Mesh(mesh.vertices * half, mesh.faces, normals)


def box(sx: float, sy: float, sz: float, taper: float = 1.0) -> Mesh:
    """A box standing on z = 0, centred in x and y, its top scaled by ``taper``."""
    x, y = sx / 2, sy / 2
    low = [[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]
    high = [[a * taper, b * taper, sz] for a, b, _ in low]
    quads = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
    faces = np.array([[a, b, c] for a, b, c, _ in quads] + [[a, c, d] for a, _, c, d in quads])
    return flat_shaded(np.array(low + high, dtype=float), faces)


def prism(polygon: list[tuple[float, float]], depth: float) -> Mesh:
    """A convex polygon in the x-z plane, thickened to ``depth`` along y (centred)."""
    flat = np.asarray(polygon, dtype=float)
    n = len(flat)
    front = np.stack([flat[:, 0], np.full(n, -depth / 2), flat[:, 1]], axis=1)
    back = front + [0.0, depth, 0.0]
    faces = [[0, k, k + 1] for k in range(1, n - 1)]
    faces += [[n, n + k, n + k + 1] for k in range(1, n - 1)]
    for k in range(n):
        j = (k + 1) % n
        faces += [[k, j, n + j], [k, n + j, n + k]]
    return flat_shaded(np.concatenate([front, back]), np.array(faces))


def tube(path: np.ndarray | list, radius: float | list[float], sections: int = 14) -> Mesh:
    """A round tube along a path, closed at both ends.

    Args:
        path: Points of the centre line, (K, 3).
        radius: One radius, or one per point.
        sections: Number of vertices around.
    """
    line = np.asarray(path, dtype=float)
    thick = np.broadcast_to(np.asarray(radius, dtype=float), (len(line),))
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    spread = np.ptp(line, axis=0)
    up = np.eye(3)[int(np.argmin(spread))]
    side = np.cross(tangent, up)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(side, tangent)
    angle = np.arange(sections) * 2.0 * np.pi / sections
    ring = (
        side[:, None] * np.cos(angle)[None, :, None] + other[:, None] * np.sin(angle)[None, :, None]
    )
    around = line[:, None] + ring * thick[:, None, None]
    rows = np.concatenate(
        [line[None, :1].repeat(sections, 1), around, line[None, -1:].repeat(sections, 1)]
    )
    normal = np.concatenate(
        [-tangent[None, :1].repeat(sections, 1), ring, tangent[None, -1:].repeat(sections, 1)]
    ).reshape(-1, 3)
    faces = _grid_faces(len(line) + 2, sections)
    corner_normals = normal[faces]
    for cap, direction in ((0, -tangent[0]), (len(line), tangent[-1])):
        corner_normals[faces.min(axis=1) // sections == cap] = direction
    return Mesh(rows.reshape(-1, 3), faces, corner_normals)


def moved(
    mesh: Mesh,
    to: tuple[float, float, float] | np.ndarray = (0.0, 0.0, 0.0),
    turn: tuple[str, float] | None = None,
    scale: float = 1.0,
) -> Mesh:
    """Scales a mesh, turns it about an axis (``("x", degrees)``), then shifts it."""
    vertices, normals = mesh.vertices * scale, mesh.normals
    if turn is not None:
        rotation = rotation_about(*turn)
        vertices, normals = vertices @ rotation.T, normals @ rotation.T
    return Mesh(vertices + np.asarray(to, dtype=float), mesh.faces, normals)


def rotation_about(axis: str, degrees: float) -> np.ndarray:
    """Right-handed rotation matrix (3, 3) about ``x``, ``y`` or ``z``."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = c
    matrix[a, b], matrix[b, a] = -s, s
    return matrix


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    offset = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offset, strict=True)]),
        np.concatenate([m.normals for m in meshes]),
    )


def mirrored(mesh: Mesh) -> Mesh:
    """A mesh together with its mirror image at x = 0."""
    flip = np.array([-1.0, 1.0, 1.0])
    return joined(mesh, Mesh(mesh.vertices * flip, mesh.faces, mesh.normals * flip))


def arc(
    radius_x: float, radius_z: float, start: float, stop: float, points: int = 14
) -> np.ndarray:
    """Points (K, 3) of an elliptic arc in the x-z plane about the origin, angles in degrees."""
    angle = np.radians(np.linspace(start, stop, points))
    return np.stack([radius_x * np.cos(angle), 0 * angle, radius_z * np.sin(angle)], axis=1)
