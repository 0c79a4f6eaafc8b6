"""A folder of weights is one thing: what lies beside the main part is loaded with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from framework.training.copies import Undo, chain
from framework.training.embeds import read_words
from framework.training.formats.kinds import LORA, TEXTUAL_INVERSION, Found
from framework.training.formats.lora import BUNDLED, load_lora
from framework.training.formats.reading import read_shapes
from framework.training.formats.recognise import companions
from framework.training.words import add_words
from framework.types import Concept

logger = logging.getLogger(__name__)


def load_folder(
    pipe: Any,
    found: Found,
    concept: Concept,
    steps: Sequence[Callable[[], Undo]],
    words: Sequence[Path] = (),
) -> Undo:
    """Take a method's own steps, then load what lies beside: LoRA, then words.

    Args:
        pipe: the pipeline.
        found: what was recognised, with its companions.
        concept: names the placeholder and the adapters.
        steps: each loads a part of the main thing and returns its undo.
        words: files that hold words beside something else.

    Returns:
        A function that takes everything out again; after an error all is out already.

    Raises:
        UserError: a part cannot be loaded.
    """
    undos: list[Undo] = []
    try:
        for step in steps:
            undos.append(step())
        for more in companions(found, LORA):
            undos.append(load_lora(pipe, more.path, concept.name))
        beside = [part.path for part in companions(found, TEXTUAL_INVERSION)]
        files = [*words, *beside]
        rows = read_words(pipe, files, concept.placeholder) if files else {}
        for word, each in rows.items():
            undos.append(add_words(pipe, word, each, trained=False))
    except BaseException:
        chain(undos)()
        raise
    if found.skipped:
        logger.info("Passed over beside the weights: %s.", ", ".join(found.skipped))
    return chain(undos)


def with_bundled(file: Path) -> list[Path]:
    """The file, if words are bundled into it."""
    shapes = read_shapes(file)
    return [file] if any(str(key).startswith(BUNDLED) for key in shapes) else []
