"""Descriptions of objects and scenes, and how they are drawn at random."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from framework.toyworld.objects import CATEGORIES
from framework.toyworld.palette import COLOURS, PATTERNS

PLACES: tuple[str, ...] = (
    "grass", "snow", "beach", "brick road", "water", "moon", "wooden floor", "purple rug",
    "tiled floor", "flowers", "leaves",
)  # fmt: skip
"""Where a scene can be; see ``captions.PLACE_PHRASES``."""

ACCESSORIES: tuple[str, ...] = ("hat", "crown", "scarf", "flag", "balloon")
ACCESSORY_COLOURS: tuple[str, ...] = ("red", "yellow", "green", "blue", "purple", "pink")
OCCLUDERS: tuple[str, ...] = ("box", "bush", "rock")
CONDITIONS: tuple[str, ...] = (
    "above", "behind", "side", "left", "right", "far", "close", "box", "bush", "rock",
)  # fmt: skip
"""Challenging conditions: novel views, displacements, occluders."""


@dataclass(frozen=True)
class PartStyle:
    """The look of a part: a colour, a pattern and the pattern's second colour."""

    colour: str
    pattern: str = "solid"
    colour2: str = "white"


@dataclass(frozen=True)
class ObjectSpec:
    """An object: its category, proportions and the style of every part (the main part first)."""

    category: str
    shape: dict[str, float]
    parts: dict[str, PartStyle]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ObjectSpec:
        """Inverse of :meth:`to_dict`."""
        parts = {name: PartStyle(**style) for name, style in data["parts"].items()}
        return cls(data["category"], dict(data["shape"]), parts)

    @property
    def main(self) -> str:
        """Name of the main part; its colour is the object's colour."""
        return CATEGORIES[self.category].parts[0]

    def appearance(self) -> tuple:
        """Category and part styles as a hashable value; equal for objects that look alike."""
        styles = tuple(
            (name, s.colour, s.pattern, s.colour2 if s.pattern != "solid" else "")
            for name, s in sorted(self.parts.items())
        )
        return (self.category, styles)


@dataclass(frozen=True)
class Accessory:
    """Something the object wears or has: a kind of :data:`ACCESSORIES` and a colour."""

    kind: str
    colour: str


@dataclass(frozen=True)
class SceneSpec:
    """A scene.

    Attributes:
        object: The object.
        place: One of :data:`PLACES`.
        accessory: What the object wears, or None.
        occluder: One of :data:`OCCLUDERS` standing in front of the object, or None.
        azimuth: Degrees the camera has gone around the object; 0 sees its front, +90 its right.
        elevation: Degrees of the camera above the horizon.
        position: Shift (right, down) of the object's centre from the frame's, in frame widths.
        size: Larger side of the object's bounding box in the frame, in frame widths.
        light: Azimuth of the sun from the camera's side, degrees; negative is from the left.
        condition: One of :data:`CONDITIONS` for a challenging scene, or None.
    """

    object: ObjectSpec
    place: str
    accessory: Accessory | None = None
    occluder: str | None = None
    azimuth: float = 0.0
    elevation: float = 20.0
    position: tuple[float, float] = (0.0, 0.0)
    size: float = 0.6
    light: float = -45.0
    condition: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"position": list(self.position)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SceneSpec:
        """Inverse of :meth:`to_dict`; keys it does not know (``object_id``) are passed over."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known["object"] = ObjectSpec.from_dict(data["object"])
        if known.get("accessory") is not None:
            known["accessory"] = Accessory(**known["accessory"])
        known["position"] = tuple(known["position"])
        return cls(**known)


def _round(value: float) -> float:
    """Keeps specifications short and exact in JSON."""
    return round(float(value), 4)


def sample_object(rng: np.random.Generator, category: str | None = None) -> ObjectSpec:
    """Draws an object: category, proportions, part colours and patterns.

    Every part is drawn its own colour, the main part apart from the others; a patterned part has
    a second colour that differs from its first.

    Args:
        rng: Source of randomness.
        category: A category, or None for any.

    Returns:
        The object.
    """
    kind = CATEGORIES[category or str(rng.choice(list(CATEGORIES)))]
    names = list(COLOURS)
    shape = {name: _round(rng.uniform(*span)) for name, span in kind.shape.items()}
    colours = [str(c) for c in rng.permutation(names)]
    parts: dict[str, PartStyle] = {}
    for index, part in enumerate(kind.parts):
        pattern, colour2 = "solid", "white"
        colour = colours[index]
        if part in kind.patterned and rng.random() < (0.72 if index == 0 else 0.3):
            pattern = str(rng.choice(PATTERNS[1:]))
        contrast = [c for c in names if not too_alike(colour, c)]
        colour2 = str(rng.choice(contrast))
        parts[part] = PartStyle(colour, pattern, colour2 if pattern != "solid" else colour)
    for part, colour in kind.fixed.items():
        parts[part] = PartStyle(colour, "solid", colour)
    return ObjectSpec(kind.name, shape, parts)


_CLOSE = (
    {"black", "brown"}, {"black", "blue"}, {"black", "purple"}, {"brown", "red"},
    {"brown", "green"}, {"brown", "purple"}, {"blue", "purple"}, {"red", "orange"},
    {"orange", "yellow"}, {"white", "yellow"}, {"green", "blue"}, {"white", "pink"},
    {"red", "purple"}, {"teal", "white"}, {"teal", "pink"}, {"orange", "brown"},
)  # fmt: skip
"""Pairs of colours that make too weak a pattern."""


def too_alike(first: str, second: str) -> bool:
    """Whether a pattern of two colours would hardly show."""
    return first == second or {first, second} in _CLOSE


def sample_scene(rng: np.random.Generator, object: ObjectSpec, **fixed: Any) -> SceneSpec:
    """Draws a scene of an object.

    Args:
        rng: Source of randomness.
        object: The object.
        **fixed: Fields of :class:`SceneSpec` to be set rather than drawn. ``condition`` decides
            viewpoint, displacement or occluder (None: a default view); without it, 30 % of the
            scenes carry a condition.

    Returns:
        The scene.

    Raises:
        TypeError: ``fixed`` names something that is no field of a scene.
    """
    if "condition" in fixed:
        condition = fixed["condition"]
    else:
        condition = str(rng.choice(CONDITIONS)) if rng.random() < 0.3 else None
    accessory = None
    if rng.random() < 0.4:
        accessory = Accessory(str(rng.choice(ACCESSORIES)), str(rng.choice(ACCESSORY_COLOURS)))
    values: dict[str, Any] = {
        "place": str(rng.choice(PLACES)),
        "accessory": accessory,
        "azimuth": CATEGORIES[object.category].yaw + rng.uniform(-50, 50),
        "elevation": rng.uniform(9, 28),
        "position": (rng.uniform(-0.07, 0.07), rng.uniform(-0.03, 0.07)),
        "size": rng.uniform(0.55, 0.78),
        "light": float(rng.choice([-1, 1])) * rng.uniform(25, 65),
    }
    values |= _conditioned(rng, condition)
    values = {
        k: _round(v)
        if isinstance(v, float)
        else tuple(map(_round, v))
        if isinstance(v, tuple)
        else v
        for k, v in values.items()
    }
    return replace(SceneSpec(object, values["place"], condition=condition), **(values | fixed))


def _conditioned(rng: np.random.Generator, condition: str | None) -> dict[str, Any]:
    """The fields of a scene that a condition decides."""
    if condition is None:
        return {}
    if condition in OCCLUDERS:
        return {"occluder": condition, "elevation": rng.uniform(8, 20)}
    sign = float(rng.choice([-1, 1]))
    aside = rng.uniform(0.2, 0.26)
    return {
        "above": {"elevation": rng.uniform(46, 60)},
        "behind": {"azimuth": 180 + rng.uniform(-35, 35)},
        "side": {"azimuth": sign * 90 + rng.uniform(-12, 12)},
        "left": {"position": (-aside, rng.uniform(-0.02, 0.08)), "size": rng.uniform(0.4, 0.5)},
        "right": {"position": (aside, rng.uniform(-0.02, 0.08)), "size": rng.uniform(0.4, 0.5)},
        "far": {"size": rng.uniform(0.27, 0.35)},
        "close": {"size": rng.uniform(0.95, 1.1)},
    }[condition]
