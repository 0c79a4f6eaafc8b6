"""Running a plan: what is missing is drawn, on whatever machines Lightning is given."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from framework.backbones.loading import pick_device
from framework.config.resources import resolve_path
from framework.errors import UserError, first_line
from framework.experiments.batches import CellBatch
from framework.experiments.cells import Setting
from framework.experiments.draw import Artist
from framework.experiments.evaluate import evaluate_run
from framework.experiments.folder import WEIGHTS, missing, open_folder, plan_batches
from framework.experiments.log import Progress, drawing_logger
from framework.experiments.options import RunConfig
from framework.experiments.plan import Plan
from framework.experiments.predict import AblationModule, PictureWriter
from framework.experiments.ranks import (
    LOST,
    SharedPlan,
    can_start_others,
    end_with_the_first,
    failure,
    first_rank,
    forget_failure,
)
from framework.experiments.results import Results
from framework.metrics.loading import load_encoders
from framework.metrics.protocols import protocol
from framework.runs.folder import RunFolder
from framework.runs.interrupts import interruptible
from framework.runs.machine import (
    check_picture_size,
    check_processes,
    cpu_cores,
    folder_bytes,
    free_memory,
)
from framework.runs.progress import progress_enabled

logger = logging.getLogger(__name__)


def run_experiment(
    plan: Plan, folder: Path | RunFolder, *, scored: bool = True, report: bool = True
) -> tuple[int, list[Results]]:
    """Check, draw and score a plan; tables, plots and the page are written.

    Args:
        plan: the plan.
        folder: of the run; see :func:`run_plan`.
        scored: whether pictures are scored.
        report: whether the page is written.

    Returns:
        How many pictures were missing, and the results, one for each protocol; none in a process
        that is not the first one.

    Raises:
        UserError: whatever of the plan cannot be used, before anything is learned.
    """
    end_with_the_first()
    path = folder.path if isinstance(folder, RunFolder) else Path(folder).expanduser()
    if first_rank():
        check_machine(plan)
        if scored:
            check_encoders(plan)
        rehearse(plan, missing(path, plan_batches(plan)))
    drawn = run_plan(plan, folder)
    if not first_rank() or not scored:
        return drawn, []
    return drawn, evaluate_run(plan, path, report=report)


def check_encoders(plan: Plan) -> None:
    """Load what will score the pictures once, so that what is missing is said before the drawing.

    Raises:
        UserError: an encoder cannot be loaded.
    """
    for name in plan.protocols:
        load_encoders(protocol(name).apply(plan.config.evaluation))


def check_machine(plan: Plan) -> None:
    """Refuse what this machine does not have: devices, processes, memory for the pictures.

    Raises:
        UserError: with what there is.
    """
    for device in {each.config.model.device for each in plan.settings}:
        pick_device(device)
    kind = run_device(plan.run).type
    count = plan.run.devices
    if isinstance(count, list):
        count = max(count, default=0) + 1
    if isinstance(count, int) and plan.run.num_nodes == 1:
        each = folder_bytes(resolve_path(plan.config.model.path))
        check_processes("run.devices", count, kind, each)
    for config in {id(each.config): each.config for each in plan.settings}.values():
        check_picture_size(config.sampler.height or 8, config.sampler.width or 8)


def rehearse(plan: Plan, todo: Sequence[CellBatch]) -> None:
    """Run every variant's parts together once; see :meth:`Artist.rehearse`.

    Raises:
        UserError: whatever does not fit, by its variant where there are several.
    """
    seen: dict[tuple[str, ...], Setting] = {}
    for batch in todo:
        setting = batch.setting
        prompts = [cell.prompt for cell in setting.cells]
        seen.setdefault((setting.variant, *prompts), setting)
    artist = Artist(Path(), plan.learn, str(run_device(plan.run)))
    for setting in seen.values():
        try:
            artist.rehearse(setting)
        except UserError as error:
            if len(plan.variants) == 1:
                raise
            raise UserError(f"Variant '{setting.variant}': {error}") from error
    artist.close()


def run_device(run: RunConfig) -> torch.device:
    """The device of the first process.

    Raises:
        UserError: there is none of that kind here.
    """
    if run.accelerator in ("auto", "cpu", "mps"):
        return pick_device(run.accelerator)
    if run.accelerator not in ("gpu", "cuda"):
        raise UserError(
            f"run.accelerator is '{run.accelerator}'; expected auto, cpu, gpu, cuda or mps."
        )
    if not torch.cuda.is_available():
        raise UserError(f"run.accelerator is '{run.accelerator}', but there is no GPU here.")
    first = run.devices[0] if isinstance(run.devices, list) and run.devices else 0
    return torch.device("cuda", int(first))


def run_plan(
    plan: Plan, folder: Path | RunFolder, batches: Sequence[CellBatch] | None = None
) -> int:
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
    path = open_folder(folder, plan)
    if plan.run.threads is not None and not torch.cuda.is_available():
        torch.set_num_threads(plan.run.threads)
    todo = missing(path, plan_batches(plan) if batches is None else batches)
    cells = sum(len(batch.cells) for batch in todo)
    if not todo:
        return 0
    if first_rank():
        logger.info("%d of %d pictures to draw", cells, len(plan.cells))
        forget_failure(path)
    weights = weights_root(plan, path)
    module = AblationModule(plan, path, weights, todo)
    there = len(plan.cells) - cells
    callbacks = [PictureWriter(path, plan.run), Progress(path, todo, there)]
    curve = drawing_logger(plan.run.log, path, there)
    most = min(len(todo), fitting_processes(plan))
    trainer = make_trainer(plan.run, path, most, callbacks, curve)
    with interruptible():
        _predict(trainer, module)
    left = missing(path, todo)
    if left and first_rank():
        raise UserError(
            failure(path)
            or f"{sum(len(b.cells) for b in left)} pictures of '{path}' are still missing or "
            "damaged after the run; is another program writing there? Run the same command again."
        )
    return cells


def _predict(trainer: pl.Trainer, module: AblationModule) -> None:
    """Draw, and wait for the other processes.

    Raises:
        UserError: one of them has ended.
    """
    try:
        trainer.predict(module, return_predictions=False)
        trainer.strategy.barrier("drawn")  # Lightning has none there; what follows needs all ranks
    except RuntimeError as error:  # of the process group, whose classes differ
        strategy = trainer.strategy
        if not isinstance(strategy, SharedPlan) or not (_of_group(error) or strategy.lost()):
            raise
        raise UserError(failure(module.folder) or LOST) from error
    finally:
        if isinstance(trainer.strategy, SharedPlan):
            trainer.strategy.finish()


def _of_group(error: RuntimeError) -> bool:
    words = ("gloo", "Connection closed", "NCCL", "Connection reset", "TCPStore", "process group")
    return any(word in str(error) for word in words)


def fitting_processes(plan: Plan) -> int:
    """How many processes with the model, and as much again to compute in, memory holds."""
    each = folder_bytes(resolve_path(plan.config.model.path))
    return max(1, free_memory() // (2 * each)) if each else 2**16


def weights_root(plan: Plan, folder: Path) -> Path:
    """Where the learned weights of a run lie."""
    return Path(plan.run.weights).expanduser() if plan.run.weights else folder / WEIGHTS


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
        strategy = SharedPlan()
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
    if run.num_nodes == 1 and not can_start_others() and "WORLD_SIZE" not in os.environ:
        return 1
    if run_device(run).type != "cpu":
        return "auto"
    ranks = int(os.environ.get("WORLD_SIZE", "0")) or None  # already started, as by torchrun
    return ranks or max(1, min(cpu_cores(), items))


def _several(devices: Any, nodes: int) -> bool:
    if nodes > 1:
        return True
    if isinstance(devices, list):
        return len(devices) > 1
    text = str(devices)
    if text in ("auto", "-1"):
        return torch.cuda.device_count() > 1
    return "," in text or (text.isdigit() and int(text) > 1)
