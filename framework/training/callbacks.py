"""Lightning callbacks: a progress bar, and checkpoints that are whole or absent."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from framework.atomic import write_atomic
from framework.errors import UserError
from framework.progress import progress

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)\.ckpt")


class Bar(pl.Callback):
    """The project's progress bar, with a running mean of the loss.

    Args:
        label: what is being done.
        steps: number of updates in all.
    """

    def __init__(self, label: str, steps: int) -> None:
        self.label, self.steps = label, steps
        self._bar: Any = None
        self._loss: float | None = None

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        """Begin where training begins."""
        self._bar = progress((), self.label, total=self.steps, initial=trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """One step on."""
        loss = float(outputs["loss"])
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._bar.set_postfix(loss=f"{self._loss:.4f}", refresh=False)
        self._bar.update(1)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        """Close it."""
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        """Close it."""
        if self._bar is not None:
            self._bar.close()


class Checkpoints(pl.Callback):
    """A checkpoint every so many updates and at the end, the latest ones kept.

    Args:
        folder: where they go, as ``step-000100.ckpt``.
        every: updates between them.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, every: int, keep: int = 2) -> None:
        self.folder, self.every, self.keep = folder, every, keep

    def on_train_batch_end(
        self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Save when it is time."""
        step = trainer.global_step
        if step % self.every == 0 or step >= system.optimization.steps:
            trainer.save_checkpoint(self.folder / f"step-{step:06d}.ckpt")
            for path in list_checkpoints(self.folder)[self.keep :]:
                path.unlink(missing_ok=True)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints in one piece; a full disk is said in plain words."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside, then move."""
        write_atomic(Path(path), lambda file: _save(checkpoint, file))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, latest first."""
    found = [path for path in folder.glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]), reverse=True)  # type: ignore[index]


def find_checkpoint(folder: Path, identity: str) -> tuple[Path, int] | None:
    """The latest readable checkpoint of a task and its step; None if there is none.

    Raises:
        UserError: the folder holds checkpoints of another task.
    """
    for path in list_checkpoints(folder):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            found, step = content["identity"], int(content["global_step"])
        except Exception as error:
            logger.warning("%s cannot be read (%s); an older one is used.", path, error)
            continue
        if found != identity:
            raise UserError(
                f"{folder} holds checkpoints of another training (other options, pictures, seed or "
                "model). Choose another output folder, or remove that one."
            )
        return path, step
    return None


def _save(checkpoint: dict[str, Any], file: Path) -> None:
    """torch.save through Python's file, whose errors name their cause."""
    with file.open("wb") as stream:
        torch.save(checkpoint, stream)
