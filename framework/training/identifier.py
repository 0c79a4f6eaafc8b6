"""What DreamBooth and its LoRA form share: a word the model knows stands for the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from framework.errors import UserError
from framework.options import option
from framework.training.method import TrainedPersonalizer
from framework.training.options import PriorConfig
from framework.training.words import check_known
from framework.types import Concept


@dataclass
class IdentifierConfig(PriorConfig):
    """Options of methods with an identifier."""

    identifier: str = option("sks", "placeholder of a concept that names none: a rare known word")
    templates: list[str] = option(["plain"], "sets such as 'plain', or sentences with {}")
    train_text_encoder: bool = option(False, "also train the text encoder")
    text_learning_rate: float | None = option(
        None, "of the text encoder; null: as the network's", low=0.0
    )


class IdentifierPersonalizer(TrainedPersonalizer):
    """A method that binds an existing word to the object by changing networks."""

    Config = IdentifierConfig

    def word(self, name: str) -> str:
        """The identifier, whatever the concept is called."""
        return self.config.identifier

    def word_rate(self) -> float | None:
        """See the base class."""
        return self.config.text_learning_rate

    def check_words(self, pipe: Any, concept: Concept) -> None:
        """Refuse an identifier that is empty, unknown or the class name itself."""
        word = concept.placeholder
        if not word.strip():
            raise UserError(
                "The placeholder is empty; this method binds a word to the object. Give a rare one "
                "that the model knows, e.g. concept.placeholder=sks."
            )
        check_known(pipe, word, "The placeholder")
        if word.lower().split() == concept.class_name.lower().split():
            raise UserError(
                f"The placeholder '{word}' is the class name itself; the object could not be told "
                "from its class. Give another word, e.g. concept.placeholder=sks."
            )
