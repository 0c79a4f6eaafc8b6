"""Textual Inversion: a concept as new words in the text encoder's vocabulary.

Gal et al., "An Image is Worth One Word", ICLR 2023, arXiv 2208.01618. The model stays as it is;
only the embedding rows of the placeholder are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from framework.interfaces import PERSONALIZERS
from framework.options import option
from framework.training.companions import load_folder
from framework.training.embeds import FILE, write_embeds
from framework.training.formats.recognise import TEXTUAL_INVERSION, located
from framework.training.new_word import NewWordConfig, NewWordPersonalizer
from framework.training.words import add_words
from framework.types import Concept


@dataclass
class TextualInversionConfig(NewWordConfig):
    """Options of Textual Inversion; the defaults suit a small model."""

    vectors: int = option(1, "embedding rows the placeholder has", low=1, high=64)


@PERSONALIZERS.register("textual_inversion")
class TextualInversion(NewWordPersonalizer):
    """Learns the embedding rows of a new word; the model's weights stay as they are."""

    Config = TextualInversionConfig
    formats = (TEXTUAL_INVERSION,)
    trains_networks = False

    @property
    def rows(self) -> int:  # type: ignore[override]
        """Embedding rows of the word."""
        return self.config.vectors

    @contextmanager
    def prepared(self, pipe: Any, concept: Concept, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """The new rows beside the frozen embeddings; see the base class."""
        rows = self.start(pipe, concept)
        restore = add_words(pipe, concept.placeholder, rows, trained=True)
        try:
            yield rows
        finally:
            restore()

    def write(
        self, pipe: Any, concept: Concept, folder: Path, trained: dict[str, nn.Parameter]
    ) -> Path:
        """``learned_embeds.safetensors``, which ``pipe.load_textual_inversion`` loads too."""
        return write_embeds(folder / FILE, concept.placeholder, dict(trained))

    def load(self, pipe: Any, path: Path, concept: Concept) -> Callable[[], None]:
        """Put learned rows into the pipeline under the concept's placeholder.

        Args:
            pipe: a pipeline of the family they were trained for.
            path: a file, or a folder with ``learned_embeds.safetensors``; see
                :func:`framework.training.embeds.read_words` for the formats.
            concept: names the placeholder, whichever word the file itself names; several words
                keep their names, and it must be one of them.

        Returns:
            A function that restores the pipeline; several concepts are taken out in reverse order.

        Raises:
            UserError: the file is missing, damaged or of another width, or the placeholder is
                taken.
        """
        found = located(Path(path), TEXTUAL_INVERSION)
        return load_folder(pipe, found, concept, [], [found.path])
