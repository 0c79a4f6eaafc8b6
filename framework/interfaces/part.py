"""What every swappable part has: a registered name, typed options, a one-line summary."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, ClassVar

from framework.errors import unknown_name
from framework.options import PartConfig, config_class


class Part:
    """Base of the seven interfaces.

    A subclass declares its options as a dataclass ``Config`` (see :mod:`framework.options`) and is
    constructed with them as keyword arguments, ``CycleArgmax(cycle_threshold=0.3)``; they are then
    attributes of ``self.config``. A subclass may instead write its own constructor, with a default
    for every argument; its options are then read off that signature.
    """

    Config: ClassVar[type] = PartConfig
    name: ClassVar[str] = ""

    def __init__(self, **options: Any) -> None:
        config = config_class(type(self))
        known = [item.name for item in fields(config)]
        for key in options:
            if key not in known:
                raise unknown_name(f"option of {type(self).__name__}", key, known)
        self.config = config(**options)

    @classmethod
    def summary(cls) -> str:
        """First line of the class's docstring."""
        lines = (inspect.getdoc(cls) or "").strip().splitlines()
        return lines[0] if lines else ""
