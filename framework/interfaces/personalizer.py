"""Personalizer: a few images of a concept -> something a diffusers pipeline can load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from framework.interfaces.part import Part
from framework.registry import Registry
from framework.types import Concept


class Personalizer(Part, ABC):
    """Teaches a pipeline a new concept, and loads what was taught.

    What a subclass declares:

    * :meth:`train` writes weights in the format diffusers itself loads and returns their path. It
      must leave the pipeline as it found it: what was learned comes back through :meth:`load`.
    * :meth:`load` puts saved weights into a pipeline and returns a function that takes them out
      again.
    * :meth:`check`, if it can tell early that :meth:`train` would refuse;
    * :attr:`formats`, the formats of :mod:`framework.training.formats` it loads, if it shares any;
    * :attr:`replaces`, if :meth:`load` puts weights in place of the model's, not beside them;
    * :meth:`word`, if a concept that names no placeholder is not to be called ``<name>``.
    """

    #: Names of the recognised weight formats that :meth:`load` takes.
    formats: ClassVar[tuple[str, ...]] = ()
    #: Whether what :meth:`load` brings takes the place of other concepts' weights.
    replaces: ClassVar[bool] = False

    def word(self, name: str) -> str:
        """The placeholder of a concept that was given none.

        Args:
            name: the concept's short name.
        """
        return f"<{name}>"

    def check(self, pipe: Any, concept: Concept) -> None:  # noqa: B027 - nothing to check is fine
        """Refuse what cannot be learned, quickly and before anything is written.

        Args:
            pipe: the pipeline, left as it is.
            concept: the concept.

        Raises:
            UserError: as :meth:`train` would.
        """

    @abstractmethod
    def train(self, pipe: Any, concept: Concept, folder: Path, *, seed: int = 0) -> Path:
        """Learn the concept.

        Args:
            pipe: a diffusers text-to-image pipeline.
            concept: the concept; its placeholder must not be in the vocabulary yet.
            folder: where checkpoints, logs and the result go; created if missing.
            seed: makes training repeatable.

        Returns:
            The file (or folder) with the learned weights, inside ``folder``.

        Raises:
            UserError: the images or the words cannot be used.
        """

    @abstractmethod
    def load(self, pipe: Any, path: Path, concept: Concept) -> Any:
        """Load learned weights into the pipeline.

        Args:
            pipe: a pipeline of the family they were trained for.
            path: what :meth:`train` returned, or a file of the same format from elsewhere.
            concept: names the placeholder.

        Returns:
            A callable without arguments that restores the pipeline.

        Raises:
            UserError: the file is missing, or is for another family or width (both shapes given).
        """


#: Every personalizer by its name.
PERSONALIZERS = Registry(
    "personalizer",
    "personalizers",
    Personalizer,
    "a few images of a concept -> something the pipeline can load",
)
