"""What Textual Inversion and Custom Diffusion share: a new word that begins as known ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from framework.options import option
from framework.training.method import TrainedPersonalizer
from framework.training.options import TrainingConfig
from framework.training.words import check_known, check_placeholder, initial_rows, towers
from framework.types import Concept


@dataclass
class NewWordConfig(TrainingConfig):
    """Options of methods that learn a word."""

    initializer: str | None = option(None, "words the new one starts from; null: the class name")


class NewWordPersonalizer(TrainedPersonalizer):
    """A method that adds a word to the vocabulary and learns its embedding."""

    #: Embedding rows of the word.
    rows: int = 1

    @property
    def extra_tokens(self) -> int:  # type: ignore[override]
        """Tokens of the placeholder in a prompt."""
        return self.rows

    def check_words(self, pipe: Any, concept: Concept) -> None:
        """Refuse a placeholder that is taken, and an initializer nobody knows."""
        check_placeholder(pipe, concept.placeholder)
        if self.config.initializer is not None:
            check_known(pipe, self.config.initializer, "The initializer")
        self.start(pipe, concept)

    def start(self, pipe: Any, concept: Concept) -> dict[str, nn.Parameter]:
        """Rows (n, d) to begin with, by the towers' keys.

        Raises:
            UserError: the initializer has no token.
        """
        text = self.config.initializer or concept.class_name
        return {
            tower.key: nn.Parameter(initial_rows(pipe, tower, text, self.rows))
            for tower in towers(pipe)
        }
