"""Lightning callbacks of the pre-training: log lines, and checkpoints by the clock."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

logger = logging.getLogger(__name__)


class LogLine(pl.Callback):
    """A line of figures every so often: a progress bar on a terminal, lines in a log file.

    Args:
        seconds: Time between lines.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = 2.0 if sys.stderr.isatty() else seconds
        self.sums: dict[str, float] = {}
        self.steps, self.since = 0, time.monotonic()
        self.start: tuple[float, float] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, *args: Any) -> None:
        """Averages the figures, and writes them when it is time."""
        for name, value in stage.figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.steps += 1
        spent = time.monotonic() - self.since
        if spent < self.seconds and not trainer.should_stop:
            return
        figures = {name: value / self.steps for name, value in self.sums.items()}
        figures["lr"] = stage.optimizers().param_groups[0]["lr"]
        figures["images_per_s"] = self.steps * stage.config.batch_size * trainer.world_size / spent
        figures["progress"] = stage.progress
        if self.start is None:
            self.start = (stage.progress, time.monotonic())
        gained = stage.progress - self.start[0]
        if gained > 0.0:
            spent = time.monotonic() - self.start[1]
            figures["minutes_left"] = (1.0 - stage.progress) / gained * spent / 60.0
        if trainer.logger is not None:
            trainer.logger.log_metrics(figures, step=stage.global_step)
        if trainer.is_global_zero:
            text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
            bar = "#" * int(20 * stage.progress)
            if sys.stderr.isatty():
                print(f"\r[{bar:20}] {stage.global_step} {text}", end="", file=sys.stderr)
            else:
                logger.info("step %d %s", stage.global_step, text)
        self.sums, self.steps, self.since = {}, 0, time.monotonic()


class TimedCheckpoint(pl.Callback):
    """Writes ``last.ckpt`` and sample sheets by the stage's clock, and at the end.

    The clock is shared by the processes, so that all of them save at the same step. A checkpoint
    takes its name only when it is complete.

    Args:
        folder: Where the checkpoint goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: float | None = None
        self.drawn: float | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, *args: Any) -> None:
        """Saves and draws when it is time."""
        now, config = stage.elapsed, stage.config
        self.saved = now if self.saved is None else self.saved
        self.drawn = now if self.drawn is None else self.drawn
        if now - self.saved >= 60.0 * config.checkpoint_minutes:
            self.save(trainer)
            self.saved = now
        if now - self.drawn >= 60.0 * config.sheet_minutes:
            self.draw(trainer, stage)
            self.drawn = now

    def on_train_end(self, trainer: pl.Trainer, stage: Any) -> None:
        """Saves the end of the training, and of an interrupted one."""
        self.save(trainer)
        self.draw(trainer, stage)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes ``last.ckpt``."""
        partial = self.folder / "partial.ckpt"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.folder / "last.ckpt")

    def draw(self, trainer: pl.Trainer, stage: Any) -> None:
        """Has the stage draw a sheet of the averaged weights, and logs its figures."""
        if not trainer.is_global_zero:
            return
        with torch.no_grad():
            figures = stage.sheet()
        if figures:
            text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
            logger.info("step %d sheet: %s", stage.global_step, text)
            trainer.logger.log_metrics(figures, step=stage.global_step)
