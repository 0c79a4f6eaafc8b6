"""Sentences a concept is learned from, those of each method's paper, kept to known words.

``object`` and ``style`` are Textual Inversion's (Gal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from framework.concepts.text import SLOT, unknown_words
from framework.errors import UserError, unknown_name

OBJECT = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
STYLE = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a good painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
#: DreamBooth's "a [identifier] [class noun]" (Ruiz et al. 2023, section 3.2).
PLAIN = ("a {}",)
#: Custom Diffusion's (Kumari et al. 2023, appendix): "photo of a V* dog".
CUSTOM = ("photo of a {}",)
SETS = {"object": OBJECT, "style": STYLE, "plain": PLAIN, "custom": CUSTOM}


def expand_templates(items: Sequence[str]) -> list[str]:
    """Names of sets and literal templates -> templates, in order, each once.

    Args:
        items: names in :data:`SETS`, or sentences with ``{}``.

    Raises:
        UserError: an item is neither, or there is none.
    """
    found: list[str] = []
    for item in items:
        if SLOT in item:
            found.append(item)
        elif item in SETS:
            found.extend(SETS[item])
        else:
            raise unknown_name(f"template without '{SLOT}', or set of templates,", item, SETS)
    if not found:
        raise UserError(
            f"templates is empty; give {', '.join(map(repr, SETS))} or sentences with '{SLOT}'."
        )
    return list(dict.fromkeys(found))


def usable_templates(templates: Sequence[str], tokenizers: Sequence[Any]) -> list[str]:
    """Templates all of whose words every tokenizer knows; ``["{}"]`` if there is none.

    An open vocabulary keeps all of them. A closed, word-level one keeps those it was made for.
    """
    kept = [
        template
        for template in templates
        if not any(
            unknown_words(tokenizer, template.replace(SLOT, " ")) for tokenizer in tokenizers
        )
    ]
    return kept or [SLOT]
