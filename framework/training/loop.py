"""The training loop: Lightning's Trainer, made quiet, resumable and repeatable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader

from framework.errors import UserError
from framework.runs.atomic import plain_disk_errors
from framework.runs.interrupts import interruptible
from framework.runs.loggers import make_logger
from framework.training.callbacks import (
    AtomicCheckpointIO,
    Averaging,
    Bar,
    Checkpoints,
    Previews,
    find_checkpoint,
    list_checkpoints,
)
from framework.training.quiet import quiet_lightning
from framework.training.system import Diverged, Optimization, Trainee

PRECISIONS = ("auto", "32", "bf16", "16")
_LIGHTNING = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class Recording:
    """How a training is kept and watched.

    Attributes:
        label: of the progress bar.
        checkpoint_every: updates between checkpoints.
        keep_checkpoints: how many of the latest are kept.
        logger: ``csv``, ``tensorboard`` or ``none``.
        log_every: updates between points of the loss curve.
        previews: draws validation images, or None.
        advice: what to try where training diverges.
    """

    label: str = "training"
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    logger: str = "csv"
    log_every: int = 10
    previews: Previews | None = None
    advice: str = "Lower personalizer.learning_rate, or use personalizer.precision=32"


def fit(
    system: Trainee,
    data: Any,
    folder: Path,
    recording: Recording,
    *,
    precision: str = "32",
    device: torch.device | None = None,
    devices: int = 1,
) -> int:
    """Train to the last step, from the latest checkpoint in the folder if there is one.

    The same seed gives the same parameters, bit for bit on a CPU with the same number of threads,
    whether or not training was interrupted.

    Args:
        system: what is trained; holds the result afterwards.
        data: an iterable dataset of batches that begins at its attribute ``start``; for several
            devices with ``turns``, see :class:`framework.training.data.ConceptBatches`.
        folder: gets ``checkpoints/``, ``logs/`` and ``previews/``.
        recording: what is kept there.
        precision: ``32``, ``bf16`` or ``16`` (autocast).
        device: where to train.
        devices: how many of that kind; Lightning starts one process for each.

    Returns:
        The step training began with, 0 without a checkpoint.

    Raises:
        UserError: training diverged; or the folder belongs to another training.
    """
    optimization, checkpoints = system.optimization, folder / "checkpoints"
    found = find_checkpoint(checkpoints, system.identity)
    start = found[1] if found else 0
    if found and start >= optimization.steps:
        content = torch.load(found[0], map_location="cpu", weights_only=True)
        system.load_state_dict(content["state_dict"])
        system.on_load_checkpoint(content)
        system.use_average()
        return start
    data.start = start * optimization.accumulate
    with alone(devices), quiet_lightning(), torch.enable_grad():
        place = _place(device or torch.device("cpu"), devices)
        trainer = _trainer(optimization, folder, recording, start, place, precision)
        if devices > 1:
            data.turns = lambda: (trainer.global_rank, trainer.world_size)
        # A generator of its own: the loader would otherwise draw from the global one.
        loader = DataLoader(data, batch_size=None, generator=torch.Generator())
        try:
            with interruptible(), plain_disk_errors(folder):
                ckpt = found[0] if found else None
                trainer.fit(system, loader, ckpt_path=ckpt, weights_only=True)
        except Diverged as error:
            raise UserError(_advice(error, checkpoints, recording.advice)) from error
    if trainer.global_step < optimization.steps:  # pragma: no cover - stopped by a signal
        raise KeyboardInterrupt
    system.use_average()
    return start


def _trainer(
    optimization: Optimization,
    folder: Path,
    recording: Recording,
    start: int,
    place: dict[str, Any],
    precision: str,
) -> pl.Trainer:
    """Lightning's trainer, quiet, with our bar, checkpoints and logs."""
    callbacks: list[pl.Callback] = [
        Bar(recording.label, optimization.steps),
        Averaging(),
        Checkpoints(folder / "checkpoints", recording.checkpoint_every, recording.keep_checkpoints),
    ]
    if recording.previews is not None:
        callbacks.append(recording.previews)
    return pl.Trainer(
        **place,
        precision=_LIGHTNING[precision],  # type: ignore[arg-type]
        max_steps=optimization.steps,
        max_epochs=-1,
        accumulate_grad_batches=optimization.accumulate,
        gradient_clip_val=optimization.gradient_clip,
        callbacks=callbacks,
        plugins=[LightningEnvironment(), AtomicCheckpointIO()],
        logger=make_logger(
            recording.logger, folder, "logs", f"from-{start:06d}", "personalizer.logger"
        ),
        log_every_n_steps=recording.log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def is_main(devices: int) -> bool:
    """Whether this process writes results: the first of several that train together.

    Args:
        devices: that train together. With one, a process that is one of several for another reason
            (an ablation on many devices) trains and writes for itself.
    """
    return devices == 1 or int(getattr(rank_zero_only, "rank", None) or 0) == 0


@contextmanager
def alone(devices: int) -> Iterator[None]:
    """While it lasts what trains on one device counts as the first process, so that it is logged.

    Args:
        devices: that train together; with several nothing is changed.
    """
    before = getattr(rank_zero_only, "rank", None)
    try:
        if devices == 1:
            setattr(rank_zero_only, "rank", 0)  # noqa: B010 - an attribute Lightning adds
        yield
    finally:
        if devices == 1:
            setattr(rank_zero_only, "rank", before)  # noqa: B010


def choose_precision(precision: str, weights: torch.dtype, device: torch.device) -> str:
    """Resolve ``auto`` and refuse what the device cannot do.

    Raises:
        UserError: 16-bit floats with loss scaling on a device without CUDA.
    """
    if precision == "auto":
        half = {torch.float16: "16", torch.bfloat16: "bf16"}.get(weights, "32")
        return "32" if half == "16" and device.type != "cuda" else half
    if precision == "16" and device.type != "cuda":
        raise UserError(
            f"precision is '16', which needs a CUDA device; training is on {device.type}. Use "
            "personalizer.precision=bf16 or 32."
        )
    return precision


@contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode and no gradients for some modules; afterwards each is as it was."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    wanted = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    try:
        for module in modules:
            module.eval().requires_grad_(False)
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


def networks(pipe: Any) -> list[nn.Module]:
    """Every network of a pipeline."""
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


def check_devices(devices: int, device: torch.device) -> None:
    """Refuse more devices than there are.

    Raises:
        UserError: with the number there is.
    """
    there = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    there = 1 if device.type == "mps" else there
    if devices > there:
        raise UserError(
            f"personalizer.devices is {devices}; this machine has {there} of kind {device.type}."
        )


def _place(device: torch.device, devices: int) -> dict[str, Any]:
    kind = {"cuda": "gpu", "mps": "mps"}.get(device.type, "cpu")
    if devices > 1:
        # Not every parameter takes part in every loss: a text encoder's last layer in SDXL.
        return {
            "accelerator": kind,
            "devices": devices,
            "strategy": "ddp_find_unused_parameters_true",
        }
    return {"accelerator": kind, "devices": [device.index or 0] if kind == "gpu" else 1}


def _advice(error: Diverged, checkpoints: Path, advice: str) -> str:
    saved = list_checkpoints(checkpoints)
    kept = f"The last good checkpoint is {saved[0]}. " if saved else ""
    return (
        f"Training was stopped in step {error.step}: {error.what}. {kept}{advice}, "
        "with another output folder."
    )
