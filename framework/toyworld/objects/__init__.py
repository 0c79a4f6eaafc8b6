"""The categories of objects of the toy world."""

from __future__ import annotations

from framework.toyworld.objects.animals import ANIMALS
from framework.toyworld.objects.built import BUILT
from framework.toyworld.objects.category import Built, Category
from framework.toyworld.objects.turned import TURNED

CATEGORIES: dict[str, Category] = {c.name: c for c in (*TURNED, *BUILT, *ANIMALS)}
"""Class noun -> category."""

__all__ = ["CATEGORIES", "Built", "Category", "build"]


def build(category: str, shape: dict[str, float]) -> Built:
    """Builds the normalised geometry (largest extent 1, standing on z = 0) of an object.

    Args:
        category: A key of :data:`CATEGORIES`.
        shape: The category's proportions; missing ones take the middle of their range.

    Raises:
        ValueError: The category is unknown.
    """
    if category not in CATEGORIES:
        raise ValueError(f"no category {category!r}; there are: {', '.join(CATEGORIES)}")
    kind = CATEGORIES[category]
    full = {name: (low + high) / 2 for name, (low, high) in kind.shape.items()} | dict(shape)
    return kind.build(full).normalised()
