"""Lightning's predict loop over batches of cells: one item is one batch, drawn by its rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader, Dataset

from framework.errors import UserError
from framework.experiments.batches import CellBatch, share
from framework.experiments.draw import Artist, note_time, reset_memory, write_batch
from framework.experiments.folder import missing
from framework.experiments.options import RunConfig
from framework.experiments.plan import Plan
from framework.experiments.ranks import SharedPlan, failure, note_failure
from framework.runs.interrupts import stop_when_terminated, terminable
from framework.types import SamplerOutput


class Batches(Dataset):
    """Batches by number."""

    def __init__(self, batches: Sequence[CellBatch]) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> CellBatch:
        return self.batches[index]


class ShareSampler:
    """The numbers of one rank's batches, in order; may be empty, and ranks may differ in length."""

    def __init__(self, batches: Sequence[CellBatch], rank: int, ranks: int) -> None:
        place = {batch.id: number for number, batch in enumerate(batches)}
        self.numbers = [place[batch.id] for batch in share(batches, rank, ranks)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)


class AblationModule(pl.LightningModule):
    """Draws the batches of a plan.

    The pipeline is no submodule: Lightning neither wraps, moves nor saves it.

    Args:
        plan: the plan.
        folder: of the run.
        weights: folder of learned weights.
        batches: what is missing.
    """

    def __init__(
        self, plan: Plan, folder: Path, weights: Path, batches: Sequence[CellBatch]
    ) -> None:
        super().__init__()
        # The end of a resumed run: fewer batches than ranks. (Lightning sets it on the instance.)
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.plan, self.folder, self.weights = plan, folder, weights
        self.batches = list(batches)
        self._stops = terminable()
        self._artist: list[Artist] = []

    @property
    def artist(self) -> Artist:
        """Made on first use, on this rank's device."""
        if not self._artist:
            traced = bool(self.plan.run.matches or self.plan.run.flows)
            self._artist.append(Artist(self.weights, self.plan.learn, str(self.device), traced))
        return self._artist[0]

    def on_predict_start(self) -> None:
        """Lightning would ignore a request to terminate while it predicts."""
        if self._stops:
            stop_when_terminated()

    def predict_dataloader(self) -> DataLoader:
        """This rank's batches, one at a time."""
        sampler = ShareSampler(self.batches, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(Batches(self.batches), batch_size=None, sampler=sampler, collate_fn=_same)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Nothing to move: a batch is a description."""
        return batch

    def predict_step(self, batch: CellBatch, batch_idx: int = 0) -> SamplerOutput | None:
        """Draw a batch, unless another run has drawn it meanwhile or one of the processes failed.

        Raises:
            UserError: it cannot be drawn, and this is the only process; of several, each goes to
                the end, and the first one says it there.
        """
        several = self.trainer.world_size > 1
        if not missing(self.folder, [batch]) or (several and self._ended()):
            return None
        reset_memory(str(self.device))
        began, start = time.time(), time.perf_counter()
        try:
            result = self.artist.draw(batch)
        except UserError as error:
            if not several:
                raise
            note_failure(self.folder, error)
            return None
        note_time(self.folder, batch, began, time.perf_counter() - start, str(self.device))
        return result

    def _ended(self) -> bool:
        strategy = self.trainer.strategy
        lost = isinstance(strategy, SharedPlan) and strategy.lost()
        return lost or failure(self.folder) is not None

    def on_predict_end(self) -> None:
        """Leave the pipeline as it was loaded."""
        if self._artist:
            self._artist[0].close()


class PictureWriter(BasePredictionWriter):
    """Writes every picture with its metadata as soon as its batch is drawn.

    Args:
        folder: of the run.
        run: which matches are noted with each picture.
    """

    def __init__(self, folder: Path, run: RunConfig) -> None:
        super().__init__("batch")
        self.folder, self.run = folder, run

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: SamplerOutput | None,
        batch_indices: Sequence[int] | None,
        batch: CellBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """See :class:`pytorch_lightning.callbacks.BasePredictionWriter`."""
        if prediction is not None:
            write_batch(self.folder, batch, prediction, self.run)


def _same(item: Any) -> Any:
    return item
