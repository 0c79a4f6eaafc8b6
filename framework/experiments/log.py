"""The log of a run, by Lightning's loggers: progress while it draws, scores of every variant.

``tensorboard --logdir RUN/log`` shows a curve for every start and, under HPARAMS, the variants with
what they vary beside their scores; as CSV the same numbers are in the files ``metrics.csv`` there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from framework.experiments.batches import CellBatch
from framework.experiments.cells import slug
from framework.experiments.draw import batch_note
from framework.experiments.folder import LOG, missing
from framework.experiments.results import Results
from framework.metrics.panel import SCORES
from framework.runs.atomic import read_json
from framework.runs.loggers import make_logger

OPTION = "run.log"


def drawing_logger(kind: str, folder: Path, there: int) -> Any:
    """The logger of one start.

    Args:
        kind: ``csv``, ``tensorboard`` or ``none``.
        folder: of the run.
        there: pictures that are there at the start; names the log.
    """
    return make_logger(kind, folder / LOG, "drawing", f"from-{there:06d}", OPTION)


class Progress(pl.Callback):
    """Logs, after each of the first process's batches, how far all of them are.

    Args:
        folder: of the run.
        batches: those that all processes are to draw.
        there: pictures of the plan that were there before.
    """

    def __init__(self, folder: Path, batches: Sequence[CellBatch], there: int) -> None:
        self.folder, self.there = folder, there
        self._left = list(batches)
        self._drawn = 0
        self._began = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count, and write a row."""
        if trainer.logger is None or not trainer.is_global_zero:
            return
        left = missing(self.folder, self._left)
        self._drawn += sum(len(b.cells) for b in self._left) - sum(len(b.cells) for b in left)
        self._left = left
        note = read_json(batch_note(self.folder, batch))
        seconds = time.perf_counter() - self._began
        row: dict[str, float] = {
            "pictures": self.there + self._drawn,
            "pictures_a_minute": 60 * self._drawn / max(seconds, 1e-9),
        }
        if note:
            variant = slug(batch.setting.variant)
            row[f"seconds_a_picture/{variant}"] = note["seconds"] / note["cells"]
            row["memory_mib"] = note["memory_mib"]
        trainer.logger.log_metrics(row, step=self.there + self._drawn)
        trainer.logger.save()


def log_scores(found: Sequence[Results], folder: Path, kind: str) -> None:
    """Write every variant's means, beside what it varies, as a log of its own; the old one goes.

    Args:
        found: the results, one for each protocol.
        folder: of the run.
        kind: ``csv``, ``tensorboard`` or ``none``.

    Raises:
        UserError: TensorBoard is not installed.
    """
    for results in found:
        for variant in results.variants:
            place = folder / LOG / "scores" / results.protocol / slug(variant)
            for stale in place.glob("*"):
                stale.unlink()
            logger = make_logger(
                kind, folder / LOG / "scores", results.protocol, slug(variant), OPTION
            )
            if not logger:
                continue
            scores = {
                SCORES[name]: entry.mean.mean for name, entry in results.entries[variant].items()
            }
            varied = {k: str(v) for k, v in results.settings.get(variant, {}).items()}
            about = {"variant": variant, "protocol": results.protocol, **varied}
            if kind == "tensorboard":
                logger.log_hyperparams(about, scores)  # with them it is a row of HPARAMS
            else:
                logger.log_hyperparams(about)
                logger.log_metrics(scores, step=0)
            logger.save()
            logger.finalize("success")
