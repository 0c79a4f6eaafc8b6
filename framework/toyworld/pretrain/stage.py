"""What the training stages share: a time budget, weight averaging, checkpoints, resuming."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from framework.toyworld.pretrain.callbacks import LogLine, TimedCheckpoint
from framework.toyworld.pretrain.devices import mixed_precision
from framework.toyworld.pretrain.muon import build_optimizer

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
MakeBatch = Callable[[np.random.Generator], Batch]


@dataclass
class StageConfig:
    """Options every stage has.

    Attributes:
        minutes: Budget of training time; the learning rate has decayed when it is spent.
        pictures: Budget in pictures instead of minutes, where positive: the same on any machine.
        max_steps: Budget in steps instead of either, where positive.
        batch_size: Images a step and process.
        optimizer: ``adamw`` or ``muon``: Muon for kernels and matrices, AdamW for the rest.
        lr: Peak learning rate of the optimizer.
        adam: Under Muon, learning rate of the rest, as a fraction of ``lr``.
        final_lr: Learning rate at the end, as a fraction of the peak.
        hold: Fraction of the budget at the peak before the cosine decay begins.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of matrices; vectors have none.
        ema: Decay of the averaged weights, at most; early on it is ``(1 + n) / (10 + n)``.
        clip_norm: Largest norm of a gradient.
        seed: Of the batches.
        threads: Torch threads of each process; one is often the fastest on a shared CPU.
        accelerator: As Lightning names it: ``auto`` takes a GPU where there is one.
        devices: Processes or GPUs; above one they train together by DDP.
        workers: Processes that draw batches beside the training; 0 draws them in between.
        checkpoint_minutes: Time between checkpoints.
        sheet_minutes: Time between sample sheets.
    """

    minutes: float = 15.0
    pictures: int = 0
    max_steps: int = 0
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 1e-3
    adam: float = 0.1
    final_lr: float = 0.01
    hold: float = 0.0
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    clip_norm: float = 1.0
    seed: int = 0
    threads: int = 1
    accelerator: str = "auto"
    devices: int = 1
    workers: int = 0
    checkpoint_minutes: float = 3.0
    sheet_minutes: float = 6.0


class _Stream(IterableDataset):
    """An endless stream of ready-made batches."""

    def __init__(self, make: MakeBatch, seed: list[int]) -> None:
        self.make, self.seed = make, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = np.random.default_rng([*self.seed, *([worker.id] if worker else [])])
        while True:
            yield self.make(rng)


class Stage(pl.LightningModule):
    """A network under training, its loss to be written by a subclass.

    A subclass implements :meth:`loss`, and may implement :meth:`sheet`; networks it uses and does
    not train it puts into :attr:`frozen`. Learning rate, average
    and end of the training follow the elapsed fraction of the budget, which is part of the
    checkpoint: a killed training goes on where it was.

    Args:
        network: What is trained, and averaged into :attr:`average`.
        config: Options.
        make_batch: Draws a batch.
    """

    frozen: tuple[nn.Module | None, ...] = ()
    """Used, not trained; a tuple, so that they are no part of the checkpoint."""

    def __init__(self, network: nn.Module, config: StageConfig, make_batch: MakeBatch) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.config, self.make_batch = config, make_batch
        self.elapsed, self.seen = 0.0, 0
        self._tick: float | None = None

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch and the figures to log, all scalars."""
        raise NotImplementedError

    def sheet(self) -> dict[str, Any]:
        """Figures to log now and then, of the averaged weights; may write images."""
        return {}

    @property
    def progress(self) -> float:
        """Spent fraction of the budget, 0..1."""
        if self.config.max_steps > 0:
            return min(1.0, self.global_step / self.config.max_steps)
        if self.config.pictures > 0:
            return min(1.0, self.seen / self.config.pictures)
        return min(1.0, self.elapsed / (60.0 * self.config.minutes))

    def rate(self) -> float:
        """Learning rate of the next step."""
        c, progress = self.config, self.progress
        warm = min(1.0, (self.global_step + 1) / max(1, c.warmup_steps))
        decay = max(0.0, (progress - c.hold) / max(1e-9, 1.0 - c.hold))
        cosine = 0.5 * (1.0 + math.cos(math.pi * decay))
        return c.lr * warm * (c.final_lr + (1.0 - c.final_lr) * cosine)

    def train_dataloader(self) -> DataLoader:
        """An endless stream, its randomness set by seed, process and first step."""
        seed = [self.config.seed, self.global_rank, self.global_step]
        return DataLoader(
            _Stream(self.make_batch, seed), batch_size=None, num_workers=self.config.workers
        )

    def is_outer(self, name: str) -> bool:
        """Whether a parameter is of a first or last layer, which Muon does not suit."""
        return False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over what is not frozen."""
        c = self.config
        free = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        outer = {n: p for n, p in self.named_parameters() if n.startswith("heads.")}
        outer |= {n: free.pop(n) for n in list(free) if self.is_outer(n)}
        return build_optimizer(
            c.optimizer, list(free.values()), list(outer.values()), c.lr, c.adam, c.weight_decay
        )

    def on_fit_start(self) -> None:
        """Moves what is not trained to where the training is."""
        for network in self.frozen:
            if network is not None:
                network.to(self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step, in bfloat16 where that is faster."""
        with mixed_precision(self.device):
            value, figures = self.loss(batch)
        self.figures = {"loss": value.detach()} | {k: v.detach() for k, v in figures.items()}
        return value

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Advances the clock, in step with the other processes, and sets the learning rate."""
        now = time.monotonic()
        self.elapsed += now - (self._tick or now)
        self._tick = now
        if dist.is_available() and dist.is_initialized():
            shared = torch.tensor(self.elapsed, dtype=torch.float64)
            dist.broadcast(shared, 0)
            self.elapsed = float(shared)
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate() * group.get("relative", 1.0)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Averages the weights; ends the training when the budget is spent."""
        self.seen += self.config.batch_size * self.trainer.world_size
        n = self.global_step
        decay = min(self.config.ema, (1 + n) / (10 + n))
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        targets, sources = zip(*pairs, strict=True)
        torch._foreach_lerp_(list(targets), list(sources), 1.0 - decay)
        if self.progress >= 1.0:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the clock, and how many pictures were seen."""
        checkpoint["elapsed"], checkpoint["seen"] = self.elapsed, self.seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Sets the clock."""
        self.elapsed, self.seen = checkpoint["elapsed"], checkpoint["seen"]


def fit(stage: Stage, folder: Path) -> Stage:
    """Trains a stage until its budget is spent, from its last checkpoint if there is one.

    Args:
        stage: What to train.
        folder: Where ``last.ckpt``, the CSV log and the sample sheets go.

    Returns:
        The stage, trained.
    """
    config = stage.config
    torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    if last.exists():
        stage.on_load_checkpoint(load_checkpoint(last))
        if stage.progress >= 1.0 and config.max_steps <= 0:
            logger.info("%s is complete; a larger budget would train it further", folder)
            load_weights(stage, last)
            return stage
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        max_epochs=-1,
        max_steps=config.max_steps if config.max_steps > 0 else -1,
        gradient_clip_val=config.clip_norm,
        logger=CSVLogger(folder, name="log", flush_logs_every_n_steps=20),
        callbacks=[LogLine(), TimedCheckpoint(folder)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(stage, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    return stage


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, refusing anything but tensors and plain values."""
    return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(stage: Stage, path: Path) -> None:
    """Loads a checkpoint's weights into a stage; the optimizer starts anew."""
    stage.load_state_dict(load_checkpoint(path)["state_dict"])


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, named as in the network."""
    state = load_checkpoint(path)["state_dict"]
    prefix = "average."
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
