"""Ground-truth correspondence between two renders of the same object."""

from __future__ import annotations

import numpy as np

from framework.toyworld.render import Render, visible_points


def correspondence(a: Render, b: Render) -> tuple[np.ndarray, np.ndarray]:
    """Where every object pixel of one render lies in another render.

    Object-space coordinates do not depend on pose, size or position, so any two renders of the
    same object correspond, whatever place, accessory or occluder they have.

    Args:
        a: Render whose pixels are looked up, (S, S).
        b: Render of the same object, of any size.

    Returns:
        ``xy`` float32 (S, S, 2): position in ``b``'s pixels (whole numbers are pixel centres;
        may lie outside the frame), NaN off ``a``'s object. ``visible`` bool (S, S): the point
        lies in ``b``'s frame and nothing hides it there.

    Raises:
        ValueError: The renders show objects of different geometry.
    """
    mine, other = a.scene.object, b.scene.object
    if (mine.category, mine.shape) != (other.category, other.shape):
        raise ValueError(f"renders of different objects: a {mine.category}, a {other.category}")
    xy = np.full((*a.mask.shape, 2), np.nan, dtype=np.float32)
    visible = np.zeros(a.mask.shape, dtype=bool)
    points = a.coords[a.mask].astype(np.float64)
    if len(points):
        xy[a.mask] = b.camera.project(points)[0]
        visible[a.mask] = visible_points(b, points)
    return xy, visible
