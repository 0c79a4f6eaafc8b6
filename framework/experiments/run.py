"""Running a plan: what is missing is drawn, on whatever machines Lightning is given."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy

from framework.errors import UserError, first_line
from framework.experiments.batches import Batch
from framework.experiments.folder import WEIGHTS, missing, open_folder, plan_batches
from framework.experiments.log import Progress, drawing_logger
from framework.experiments.options import RunConfig
from framework.experiments.plan import Plan
from framework.experiments.predict import AblationModule, PictureWriter
from framework.runs.interrupts import interruptible
from framework.runs.progress import progress_enabled

logger = logging.getLogger(__name__)

#: A rank that has finished waits for the others; predicting has no other synchronisation.
PATIENCE = timedelta(days=14)


def run_plan(plan: Plan, folder: Path, batches: Sequence[Batch] | None = None) -> int:
    """Draw what is missing of a plan.

    Args:
        plan: the plan.
        folder: of the run; it may hold a part of this plan's pictures, never another plan's.
        batches: a part of the plan's batches (for job arrays); default all.

    Returns:
        How many pictures were missing at the start.

    Raises:
        UserError: the folder is another plan's, or a part of the plan cannot be run.
    """
    folder = open_folder(folder, plan)
    if plan.run.threads is not None and not torch.cuda.is_available():
        torch.set_num_threads(plan.run.threads)
    todo = missing(folder, plan_batches(plan) if batches is None else batches)
    cells = sum(len(batch.cells) for batch in todo)
    if not todo:
        return 0
    rank_zero_info(f"{cells} of {len(plan.cells)} pictures to draw", logger)
    weights = Path(plan.run.weights).expanduser() if plan.run.weights else folder / WEIGHTS
    module = AblationModule(plan, folder, weights, todo)
    there = len(plan.cells) - cells
    callbacks = [PictureWriter(folder, plan.run.matches), Progress(folder, todo, there)]
    curve = drawing_logger(plan.run.log, folder, there)
    trainer = make_trainer(plan.run, folder, len(todo), callbacks, curve)
    with interruptible():
        trainer.predict(module, return_predictions=False)
        trainer.strategy.barrier("drawn")  # Lightning has none there; what follows needs all ranks
    left = missing(folder, todo)
    if left and trainer.world_size == 1:
        raise UserError(
            f"{sum(len(b.cells) for b in left)} pictures of '{folder}' are still missing or "
            "damaged after the run; is another program writing there? Run the same command again."
        )
    return cells


def make_trainer(
    run: RunConfig,
    folder: Path,
    items: int,
    callbacks: Sequence[Callback] = (),
    curve: Any = False,
) -> pl.Trainer:
    """A trainer for predicting.

    Args:
        run: devices, nodes, strategy, precision.
        folder: for what Lightning itself might write.
        items: how many there are; no more processes than that are started.
        callbacks: of the trainer.
        curve: the trainer's logger; False for none.

    Raises:
        UserError: Lightning refuses the combination.
    """
    devices = device_count(run, items)
    strategy: Any = run.strategy
    if strategy in ("auto", "ddp") and _several(devices, run.num_nodes):
        strategy = DDPStrategy(timeout=PATIENCE)
    try:
        return pl.Trainer(
            accelerator=run.accelerator,
            devices=devices,
            num_nodes=run.num_nodes,
            strategy=strategy,
            precision=run.precision,  # type: ignore[arg-type]
            callbacks=list(callbacks),
            logger=curve,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress_enabled(),
            use_distributed_sampler=False,
            inference_mode=False,
            default_root_dir=str(folder),
        )
    except Exception as error:  # Lightning raises many classes for a wrong combination
        raise UserError(
            f"run: {first_line(error)}. Check accelerator, devices, num_nodes, strategy "
            "and precision of the plan's 'run'."
        ) from error


def device_count(run: RunConfig, items: int) -> Any:
    """What Lightning is given: on a CPU ``auto`` is a process a core, at most one an item."""
    if run.devices != "auto":
        return run.devices
    on_cpu = run.accelerator == "cpu" or (
        run.accelerator == "auto"
        and not torch.cuda.is_available()
        and not torch.backends.mps.is_available()
    )
    if not on_cpu:
        return "auto"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ranks = int(os.environ.get("WORLD_SIZE", "0")) or None  # already started, as by torchrun
    return ranks or max(1, min(int(cores or 1), items))


def rank_zero_info(text: str, log: logging.Logger) -> None:
    """Say something once, whatever the number of processes."""
    if first_rank():
        log.info("%s", text)


def first_rank() -> bool:
    """Whether this process is the one of a run that speaks and scores."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _several(devices: Any, nodes: int) -> bool:
    if nodes > 1:
        return True
    if isinstance(devices, list):
        return len(devices) > 1
    text = str(devices)
    if text in ("auto", "-1"):
        return torch.cuda.device_count() > 1
    return "," in text or (text.isdigit() and int(text) > 1)
