"""The held-out concepts and the prompt lists of the evaluation."""

from __future__ import annotations

import difflib

from framework.toyworld.objects import CATEGORIES
from framework.toyworld.scene import ObjectSpec, PartStyle


def _concept(category: str, shape: dict[str, float], **styles: str) -> ObjectSpec:
    """A concept from ``part="colour"`` or ``part="colour pattern colour2"``."""
    parts = {}
    for part, words in styles.items():
        colour, pattern, colour2 = (words.split() + ["solid", words])[:3]
        parts[part] = PartStyle(colour, pattern, colour2)
    for part, colour in CATEGORIES[category].fixed.items():
        parts[part] = PartStyle(colour, "solid", colour)
    return ObjectSpec(category, shape, parts)


CONCEPTS: dict[str, ObjectSpec] = {
    "harlequin_mug": _concept(
        "mug", {"height": 0.95, "handle": 0.34},
        body="red checks yellow", handle="blue", inside="white",
    ),
    "candy_mug": _concept(
        "mug", {"height": 0.85, "handle": 0.3},
        body="white rings pink", handle="green", inside="teal",
    ),
    "peacock_vase": _concept(
        "vase", {"belly": 0.54, "rise": 1.0, "lip": 0.34},
        body="teal dots purple", neck="yellow", base="orange",
    ),
    "circus_teapot": _concept(
        "teapot", {"height": 0.88, "spout": 0.06},
        body="white stripes red", lid="blue", spout="yellow", handle="green",
    ),
    "bee_lamp": _concept(
        "lamp", {"shade": 0.54, "top": 0.26}, shade="yellow rings black", stand="pink", base="teal"
    ),
    "polka_mushroom": _concept(
        "mushroom", {"cap": 0.58, "stem": 0.5}, cap="purple dots yellow", stem="white", ring="green"
    ),
    "carnival_snowman": _concept(
        "snowman", {"bottom": 0.45, "middle": 0.34},
        body="green dots yellow", belly="purple", head="pink", nose="orange",
    ),
    "flame_rocket": _concept(
        "rocket", {"radius": 0.35, "height": 0.86, "fins": 0.3},
        body="white zigzags red", nose="blue", fins="yellow", window="black",
    ),
    "gingerbread_house": _concept(
        "house", {"depth": 0.72, "walls": 0.6, "roof": 0.44},
        walls="pink dots white", roof="teal", door="purple", windows="yellow", chimney="red",
    ),
    "taxi_car": _concept(
        "car", {"length": 1.2, "cabin": 0.62, "tall": 0.32},
        body="yellow checks black", cabin="white", wheels="red", windows="blue",
    ),
    "express_train": _concept(
        "train", {"boiler": 0.85, "cab": 0.64},
        boiler="green", cab="yellow stripes purple", roof="red", chimney="white", wheels="blue",
    ),
    "jester_robot": _concept(
        "robot", {"width": 0.62, "body": 0.54, "head": 0.48},
        body="orange checks white", head="teal", arms="purple", legs="green", antenna="red",
    ),
    "regatta_boat": _concept(
        "boat", {"length": 1.2, "mast": 0.88}, hull="red", sail="white stripes blue", jib="yellow"
    ),
    "tuxedo_duck": _concept(
        "duck", {"body": 0.52, "head": 0.29},
        body="blue dots white", head="green", beak="orange", wings="pink",
    ),
    "clown_cat": _concept(
        "cat", {"head": 0.36, "body": 0.6},
        body="purple rings white", head="orange", ears="teal", tail="yellow", paws="red",
    ),
}  # fmt: skip
"""Held-out concept name -> object; none is ever drawn for training."""

TUNING_CONCEPTS: dict[str, ObjectSpec] = {
    "ladybird_mug": _concept(
        "mug", {"height": 1.0, "handle": 0.3},
        body="red dots black", handle="yellow", inside="green",
    ),
    "sunrise_vase": _concept(
        "vase", {"belly": 0.5, "rise": 0.9, "lip": 0.3},
        body="pink zigzags purple", neck="blue", base="green",
    ),
    "lighthouse_lamp": _concept(
        "lamp", {"shade": 0.5, "top": 0.3}, shade="white rings red", stand="green", base="yellow"
    ),
    "comet_rocket": _concept(
        "rocket", {"radius": 0.32, "height": 0.9, "fins": 0.26},
        body="blue stripes yellow", nose="red", fins="white", window="pink",
    ),
    "doll_house": _concept(
        "house", {"depth": 0.68, "walls": 0.58, "roof": 0.4},
        walls="yellow checks white", roof="purple", door="green", windows="blue", chimney="orange",
    ),
    "rally_car": _concept(
        "car", {"length": 1.25, "cabin": 0.56, "tall": 0.28},
        body="green", cabin="white checks red", wheels="purple", windows="teal",
    ),
    "checker_robot": _concept(
        "robot", {"width": 0.56, "body": 0.5, "head": 0.44},
        body="teal checks black", head="yellow", arms="red", legs="pink", antenna="white",
    ),
    "pirate_duck": _concept(
        "duck", {"body": 0.5, "head": 0.27},
        body="black stripes white", head="red", beak="yellow", wings="green",
    ),
}  # fmt: skip
"""As :data:`CONCEPTS`, for choosing settings: no result is reported on them."""

_HELD_OUT = CONCEPTS | TUNING_CONCEPTS
_TAKEN = frozenset(spec.appearance() for spec in _HELD_OUT.values())

PROMPTS: tuple[str, ...] = (
    "a photo of a {} on the grass",
    "a photo of a {} in the snow",
    "a photo of a {} on the beach",
    "a photo of a {} on a brick road",
    "a photo of a {} on the water",
    "a photo of a {} on the moon",
    "a photo of a {} on a wooden floor",
    "a photo of a {} on a purple rug",
    "a photo of a {} on a tiled floor",
    "a photo of a {} in a flower field",
    "a photo of a {} on autumn leaves",
    "a photo of a {}, wearing a red hat, on the beach",
    "a photo of a {}, wearing a yellow crown, in the snow",
    "a photo of a {}, wearing a blue scarf, on the moon",
    "a photo of a {}, with a green flag, on the grass",
    "a photo of a {}, with a red balloon, on a wooden floor",
    "a photo of a {}, with a purple balloon, on a tiled floor",
    "a photo of a {}, wearing a pink hat, on a brick road",
)
"""Prompts in the manner of ViCo; ``{}`` takes placeholder and class noun."""

CHALLENGING_PROMPTS: tuple[str, ...] = (
    "a photo of a {}, on the left, on the grass",
    "a photo of a {}, on the right, on the beach",
    "a photo of a {}, far away, in the snow",
    "a photo of a {}, close up, on a wooden floor",
    "a photo of a {}, behind a wooden box, on the grass",
    "a photo of a {}, behind a green bush, in the snow",
    "a photo of a {}, behind a gray rock, on the beach",
    "a photo of a {}, seen from above, on a tiled floor",
    "a photo of a {}, seen from behind, on the grass",
    "a photo of a {}, seen from the side, on the moon",
    "a photo of a {}, wearing a red hat, on the left, on a brick road",
    "a photo of a {}, wearing a yellow crown, seen from above, on a purple rug",
    "a photo of a {}, with a red balloon, far away, on the water",
    "a photo of a {}, wearing a blue scarf, behind a wooden box, on autumn leaves",
)
"""Displacement, occlusion and novel views; ``{}`` takes placeholder and class noun."""


def concept(name: str) -> ObjectSpec:
    """The held-out concept of that name, of either kind.

    Raises:
        KeyError: There is none; the message gives the nearest name.
    """
    if name not in _HELD_OUT:
        near = difflib.get_close_matches(name, _HELD_OUT, n=1, cutoff=0.0)[0]
        count = len(_HELD_OUT)
        raise KeyError(f"no concept {name!r}; the nearest is {near!r} (there are {count})")
    return _HELD_OUT[name]


def is_concept(spec: ObjectSpec) -> bool:
    """Whether an object looks like a held-out concept (category and part styles are equal)."""
    return spec.appearance() in _TAKEN
