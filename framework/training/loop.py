"""The training loop: Lightning's Trainer, made quiet, resumable and repeatable."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from framework.errors import UserError
from framework.training.callbacks import (
    AtomicCheckpointIO,
    Bar,
    Checkpoints,
    find_checkpoint,
    list_checkpoints,
)
from framework.training.data import ConceptBatches
from framework.training.system import DenoisingSystem, Diverged

PRECISIONS = ("auto", "32", "bf16", "16")
_LIGHTNING = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fit(
    system: DenoisingSystem,
    batches: ConceptBatches,
    folder: Path,
    *,
    label: str,
    precision: str = "auto",
    checkpoint_every: int = 100,
    device: torch.device | None = None,
) -> int:
    """Train to the last step, from the latest checkpoint in the folder if there is one.

    The same seed gives the same parameters, bit for bit on a CPU with the same number of threads,
    whether or not training was interrupted.

    Args:
        system: what is trained; holds the result afterwards.
        batches: the data.
        folder: gets ``checkpoints/`` and ``logs/``.
        label: of the progress bar.
        precision: ``32``, ``bf16`` or ``16`` (autocast), or ``auto``: that of the model's weights.
        checkpoint_every: updates between checkpoints.
        device: where to train.

    Returns:
        The step training began with, 0 without a checkpoint.

    Raises:
        UserError: training diverged; the folder belongs to another training; or the precision does
            not suit the device.
    """
    steps = system.optimization.steps
    device = device or torch.device("cpu")
    checkpoints = folder / "checkpoints"
    found = find_checkpoint(checkpoints, system.identity)
    start = found[1] if found else 0
    if found and start >= steps:
        state = torch.load(found[0], map_location="cpu", weights_only=True)["state_dict"]
        system.load_state_dict(state)
        return start
    batches.start = start
    with _quiet(), torch.enable_grad():
        trainer = pl.Trainer(
            **_place(device),
            precision=_LIGHTNING[choose_precision(precision, system.weight_dtype, device)],  # type: ignore[arg-type]
            max_steps=steps,
            max_epochs=-1,
            gradient_clip_val=system.optimization.gradient_clip,
            callbacks=[Bar(label, steps), Checkpoints(checkpoints, checkpoint_every)],
            plugins=[LightningEnvironment(), AtomicCheckpointIO()],
            logger=CSVLogger(folder, name="logs", version=f"from-{start:06d}"),
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        # A generator of its own: the loader would otherwise draw from the global one.
        loader = DataLoader(batches, batch_size=None, generator=torch.Generator())
        try:
            with _interruptible():
                ckpt = found[0] if found else None
                trainer.fit(system, loader, ckpt_path=ckpt, weights_only=True)
        except Diverged as error:
            raise UserError(_advice(error, checkpoints)) from error
    if trainer.global_step < steps:  # pragma: no cover - Lightning stopped by a signal
        raise KeyboardInterrupt
    return start


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


def _place(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    return {"accelerator": "mps" if device.type == "mps" else "cpu", "devices": 1}


def _advice(error: Diverged, checkpoints: Path) -> str:
    saved = list_checkpoints(checkpoints)
    kept = f"The last good checkpoint is {saved[0]}. " if saved else ""
    return (
        f"Training was stopped in step {error.step}: {error.what}. {kept}Lower "
        "personalizer.learning_rate, or use personalizer.precision=32, with another output folder."
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl+C as everywhere else; Lightning would exit, and ignore any further one for good."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's tips and notices; errors are raised all the same."""
    names = ("pytorch_lightning", "lightning_fabric", "lightning")
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    affected = [one for one in loggers if one.name.partition(".")[0] in names]
    levels = [(one, one.level) for one in affected]
    try:
        for one in affected:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in levels:
            one.setLevel(level)
