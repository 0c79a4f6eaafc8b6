"""Which family serves a pipeline, or a pipeline's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.errors import UserError
from framework.interfaces.backbone import BACKBONES, Backbone

#: What a refusal says to who has another family.
HOW_TO_ADD = (
    "A package may add a family: a class derived from framework.interfaces.Backbone, registered "
    "with @BACKBONES.register('name') in a module that 'plugins:' or the entry-point group "
    "dreammatcher.plugins names; see framework/backbones/README.md."
)


def _supported() -> str:
    return ", ".join(sorted(cls.label for _, cls in BACKBONES.items()))


def backbone_of(pipe: Any) -> Backbone:
    """The pipeline, seen through the class of its family.

    Where several serve it, the one that names the nearest of the pipeline's own base classes.

    Raises:
        UserError: no registered family serves it, or the family refuses it.
    """
    bases = [base.__name__ for base in type(pipe).__mro__]

    def distance(cls: type[Backbone]) -> int:
        return min([bases.index(name) for name in cls.pipelines if name in bases] or [len(bases)])

    serving = [cls for _, cls in BACKBONES.items() if cls.serves(pipe)]
    if not serving:
        raise UserError(
            f"{type(pipe).__name__} is not supported. Supported: {_supported()}. {HOW_TO_ADD}"
        )
    return min(serving, key=distance)(pipe)


def family_of(index: Mapping[str, Any], source: str) -> type[Backbone]:
    """The class of the family a ``model_index.json`` names.

    Args:
        index: the file's content.
        source: where it is from, for messages.

    Raises:
        UserError: no registered family serves it.
    """
    name = index.get("_class_name", "(none)")
    for _, cls in BACKBONES.items():
        if name in cls.pipelines:
            return cls
    raise UserError(
        f"'{source}' holds a {name}, which is not supported. Supported: {_supported()}. "
        f"{HOW_TO_ADD}"
    )
