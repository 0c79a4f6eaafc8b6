"""Lightning's loggers by name: what a run writes down while it goes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from framework.errors import UserError

KINDS = ("csv", "tensorboard", "none")


def make_logger(kind: str, folder: Path, name: str, version: str, option: str) -> Any:
    """A logger that writes to ``folder/name/version``; False, which Lightning takes, for none.

    Args:
        kind: one of :data:`KINDS`.
        folder: of the run.
        name: of the logs.
        version: of this start.
        option: configuration key that chose the kind, for messages.

    Raises:
        UserError: TensorBoard is not installed.
    """
    check_logger(kind, option)
    if kind == "none":
        return False
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger  # seconds to import

    made: dict[str, Any] = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
    return made[kind](folder, name=name, version=version)


def check_logger(kind: str, option: str) -> None:
    """Refuse a logger whose package is not there.

    Raises:
        UserError: TensorBoard is not installed.
    """
    if kind == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError(
            f"{option} is 'tensorboard', which is not installed: "
            f"pip install 'dreammatcher[tensorboard]', or use {option}=csv."
        )
