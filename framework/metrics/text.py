"""The text a picture is compared with."""

from __future__ import annotations

import re

from framework.concepts.text import SLOT
from framework.types import Concept


def plain_prompt(prompt: str, concept: Concept) -> str:
    """The prompt with the placeholder removed, the class noun kept.

    A text encoder that never saw the concept cannot know its placeholder, so "a photo of a S* mug
    in the snow" is scored as "a photo of a mug in the snow". A placeholder without the noun after
    it becomes the noun.

    Args:
        prompt: with ``{}`` or the placeholder.
        concept: gives placeholder and noun.
    """
    noun = concept.class_name.strip()
    text = prompt.replace(SLOT, noun)
    if concept.placeholder.strip():
        name = re.escape(concept.placeholder.strip())
        following = rf"(?:\s+{re.escape(noun)}(?!\w))?"
        text = re.sub(rf"(?<!\w){name}(?!\w){following}", lambda _: noun, text)
    return re.sub(r"\s+", " ", text).strip()


def template_prompt(prompt: str, concept: Concept) -> str:
    """The prompt with a literal ``{}`` where the concept stands, as the authors' program scores."""
    if SLOT in prompt:
        return prompt
    return re.sub(rf"(?<!\w){re.escape(concept.phrase)}(?!\w)", lambda _: SLOT, prompt)
