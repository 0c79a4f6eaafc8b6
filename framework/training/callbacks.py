"""Lightning callbacks: progress, running mean, checkpoints whole or absent, validation images."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from framework.backbones.choose import backbone_of
from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.runs.progress import progress

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
        self._done = trainer.global_step
        self._bar = progress((), self.label, total=self.steps, initial=self._done)

    def on_train_batch_end(
        self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """One batch on."""
        loss = float(outputs["loss"])
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._bar.set_postfix(loss=f"{self._loss:.4f}", refresh=False)
        self._bar.update(trainer.global_step - self._done)
        self._done = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        """Close it."""
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, system: Any, exception: BaseException) -> None:
        """Close it."""
        if self._bar is not None:
            self._bar.close()


class EachUpdate(pl.Callback):
    """Calls :meth:`updated` once an update, however many batches one takes."""

    _seen = 0

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        """Begin where training begins."""
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Notice an update."""
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self.updated(trainer, system)

    def updated(self, trainer: pl.Trainer, system: Any) -> None:
        """What is to be done."""


class Averaging(EachUpdate):
    """Lets the system's running mean follow; stands before :class:`Checkpoints`."""

    def updated(self, trainer: pl.Trainer, system: Any) -> None:
        """Follow."""
        system.follow()


class Checkpoints(EachUpdate):
    """A checkpoint every so many updates and at the end, the latest ones kept.

    What is not finite is not kept: the last checkpoint is a good one.

    Args:
        folder: where they go, as ``step-000100.ckpt``.
        every: updates between them.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, every: int, keep: int = 2) -> None:
        self.folder, self.every, self.keep = folder, every, keep

    def updated(self, trainer: pl.Trainer, system: Any) -> None:
        """Save when it is time."""
        step = trainer.global_step
        if step % self.every == 0 or step >= system.optimization.steps:
            system.check_finite()
            trainer.save_checkpoint(self.folder / f"step-{step:06d}.ckpt")
            if trainer.is_global_zero:
                for path in list_checkpoints(self.folder)[self.keep :]:
                    path.unlink(missing_ok=True)


class Previews(EachUpdate):
    """Validation images of what has been learned so far, drawn by the stock pipeline.

    Each is drawn from the same noise every time, and from generators of its own: training does not
    notice.

    Args:
        folder: where they go, as ``step-000100-0.png``.
        every: updates between them.
        prompts: one picture each, the concept filled in.
        steps: denoising steps.
        guidance: classifier-free guidance.
    """

    def __init__(
        self, folder: Path, every: int, prompts: Sequence[str], steps: int, guidance: float
    ) -> None:
        self.folder, self.every, self.prompts = folder, every, list(prompts)
        self.steps, self.guidance = steps, guidance

    def updated(self, trainer: pl.Trainer, system: Any) -> None:
        """Draw when it is time."""
        step = trainer.global_step
        if trainer.is_global_zero and (step % self.every == 0 or step >= system.optimization.steps):
            for index, picture in enumerate(
                draw_plain(system.pipe, self.prompts, 0, self.steps, self.guidance)
            ):
                write_atomic(self.folder / f"step-{step:06d}-{index}.png", picture.save)


def draw_plain(
    pipe: Any, prompts: Sequence[str], seed: int, steps: int, guidance: float
) -> Iterator[Image.Image]:
    """Pictures by the stock pipeline, one by one; prompt k from seed ``seed + k``.

    Nothing of the pipeline or of global random state is changed.
    """
    scheduler, config = pipe.scheduler, getattr(pipe, "_progress_bar_config", {})
    device = backbone_of(pipe).device
    try:
        pipe.scheduler = type(scheduler).from_config(scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        for index, prompt in enumerate(prompts):
            with torch.no_grad(), _one_type(pipe, device):
                generator = torch.Generator().manual_seed(seed + index)
                yield pipe(
                    prompt,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    generator=generator,
                ).images[0]
    finally:
        pipe.scheduler = scheduler
        pipe.set_progress_bar_config(**config)


@contextmanager
def _one_type(pipe: Any, device: torch.device) -> Iterator[None]:
    """Autocast where trained weights are float32 beside frozen ones in half precision."""
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    types = {weight.dtype for part in networks for weight in list(part.parameters())[:1]}
    half = next((each for each in types if each != torch.float32), None)
    with torch.autocast(device.type, half, enabled=half is not None and len(types) > 1):
        yield


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
