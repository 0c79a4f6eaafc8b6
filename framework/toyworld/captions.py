"""The caption grammar of the toy world and its closed vocabulary."""

from __future__ import annotations

import numpy as np

from framework.toyworld.objects import CATEGORIES
from framework.toyworld.palette import COLOURS, PATTERNS
from framework.toyworld.scene import ACCESSORIES, ACCESSORY_COLOURS, SceneSpec

PLACE_PHRASES: dict[str, str] = {
    "grass": "on the grass",
    "snow": "in the snow",
    "beach": "on the beach",
    "brick road": "on a brick road",
    "water": "on the water",
    "moon": "on the moon",
    "wooden floor": "on a wooden floor",
    "purple rug": "on a purple rug",
    "tiled floor": "on a tiled floor",
    "flowers": "in a flower field",
    "leaves": "on autumn leaves",
}
"""Place -> the words for it."""

CONDITION_PHRASES: dict[str, str] = {
    "above": "seen from above",
    "behind": "seen from behind",
    "side": "seen from the side",
    "left": "on the left",
    "right": "on the right",
    "far": "far away",
    "close": "close up",
    "box": "behind a wooden box",
    "bush": "behind a green bush",
    "rock": "behind a gray rock",
}
"""Condition -> the words for it."""

OPENINGS: tuple[str, ...] = (
    "a photo of a", "a photo of a", "a photo of a", "a picture of a", "a picture of a", "a",
    "a photo of the", "a photo of my", "a photo of this", "the", "a photo of one",
)  # fmt: skip

_PLURAL = ("arms", "ears", "fins", "legs", "paws", "wheels", "windows", "wings", "walls")
_MOST_WORDS = 24
_GENERIC = ("toy", "wearing", "with", "and", "an")


def accessory_phrase(kind: str, colour: str) -> str:
    """E.g. ``wearing a red hat``, ``with a blue flag``."""
    verb = "with" if kind in ("flag", "balloon") else "wearing"
    return f"{verb} a {colour} {kind}"


def caption(
    scene: SceneSpec,
    rng: np.random.Generator | None = None,
    subject: str | None = None,
) -> str:
    """Describes a scene in lower-case words and commas.

    Args:
        scene: What to describe.
        rng: Randomness that picks the opening and drops attributes (kept: main colour 75 %,
            pattern 50 %, one other part 40 %, place 92 %, accessory and condition 90 %). None:
            nothing is dropped and the caption is ``a photo of a ...``.
        subject: Words that replace the description of the object, e.g. ``sks mug``.

    Returns:
        At most 24 words.
    """

    def kept(chance: float) -> bool:
        return rng is None or bool(rng.random() < chance)

    opening = OPENINGS[0] if rng is None else str(rng.choice(OPENINGS))
    spec = scene.object
    colour, pattern, part = kept(0.75), kept(0.5), kept(0.4)
    main = spec.parts[spec.main]
    noun = [main.colour] if colour else []
    if rng is not None and rng.random() < 0.05:
        noun.append("toy")
    noun.append(spec.category)
    pattern_words = f"{main.colour2} {main.pattern}" if main.pattern != "solid" else ""
    others = [p for p in CATEGORIES[spec.category].parts[1:] if p in spec.parts]
    other = others[0] if rng is None else str(rng.choice(others))
    part_words = _with_article(f"{spec.parts[other].colour} {other}", other in _PLURAL)
    tail = []
    if scene.accessory is not None and kept(0.9):
        tail.append(accessory_phrase(scene.accessory.kind, scene.accessory.colour))
    if scene.condition is not None and kept(0.9):
        tail.append(CONDITION_PHRASES[scene.condition])
    if kept(0.92):
        tail.append(PLACE_PHRASES[scene.place])

    def sentence(with_part: bool) -> str:
        details = [pattern_words] if pattern and pattern_words else []
        details += [part_words] if part and with_part else []
        text = " ".join(noun) + (" with " + " and ".join(details) if details else "")
        if subject is not None:
            text = subject
        start = opening
        if start.split()[-1] == "a" and text[0] in "aeiou":
            start += "n"
        return ", ".join([f"{start} {text}", *tail])

    full = sentence(True)
    return full if len(full.split()) <= _MOST_WORDS else sentence(False)


def _with_article(words: str, plural: bool) -> str:
    """Puts ``a`` or ``an`` before a singular."""
    return words if plural else ("an " if words[0] in "aeiou" else "a ") + words


def words(text: str) -> list[str]:
    """Splits a caption into its words, without commas."""
    return text.replace(",", " ").split()


def _vocabulary() -> tuple[str, ...]:
    found: set[str] = {*_GENERIC, *COLOURS, *PATTERNS[1:], *CATEGORIES, *ACCESSORIES}
    found |= set(ACCESSORY_COLOURS)
    for kind in CATEGORIES.values():
        found |= set(kind.parts)
    for text in (*PLACE_PHRASES.values(), *CONDITION_PHRASES.values(), *OPENINGS):
        found |= set(words(text))
    return tuple(sorted(found))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word of captions and prompts, and the names of all parts, sorted; without commas."""
