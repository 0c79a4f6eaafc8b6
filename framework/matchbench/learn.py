"""Training of the ``learned`` matcher's head on pairs whose correspondence is known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.config.page import Config
from framework.matchbench.lessons import Lesson, Lessons, coarser
from framework.matchbench.losses import lesson_losses
from framework.training.callbacks import find_checkpoint
from framework.training.loop import Recording, fit
from framework.training.system import Diverged, Optimization, Trainee
from matchers.learned import MatchingHead


class MatchingSystem(Trainee):
    """Trains a head to find the true match among all cells, and to know when it has not.

    The loss is the cross entropy of the softmax over the other image's cells against a narrow
    Gaussian about the truth, in both directions, over visible points; and that of the confidence
    against whether the match is right, over all points of the object.

    Args:
        head: what is trained.
        optimization: optimizer and schedule.
        size: (height, width) of the pictures in pixels.
        identity: names the task, so that no other one resumes from its checkpoints.
    """

    def __init__(
        self,
        head: MatchingHead,
        optimization: Optimization,
        size: tuple[int, int],
        identity: str = "",
    ) -> None:
        super().__init__()
        self.head, self.optimization, self.identity = head, optimization, identity
        self._size = size

    def training_step(self, lesson: Lesson) -> Tensor:
        """One loss.

        Raises:
            Diverged: it is not finite.
        """
        found, trust, right = lesson_losses(self.head, lesson, self._size)
        # Matched layers have coarser grids, too.
        found_coarse, trust_coarse, _ = lesson_losses(self.head, coarser(lesson), self._size)
        loss = found + 0.3 * trust + 0.3 * (found_coarse + 0.3 * trust_coarse)
        if not torch.isfinite(loss):
            raise Diverged(self.global_step, f"the loss is {loss.item()}")
        values = {"loss": loss, "matching": found, "confidence": trust, "pck@0.1": right}
        self.log_dict({k: v.detach() for k, v in values.items()}, batch_size=1)
        return loss

    def check_finite(self) -> None:
        """Look at the head before it is kept.

        Raises:
            Diverged: some of it is not finite.
        """
        for name, parameter in self.head.named_parameters():
            if not torch.isfinite(parameter).all():
                raise Diverged(self.global_step, f"{name} is not finite")

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Nothing to do: descriptors are where the model is."""
        return batch

    def configure_optimizers(self) -> Any:
        """AdamW with a learning rate that is a function of the step."""
        options = self.optimization
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, options.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def train_head(
    system: MatchingSystem, lessons: Lessons, folder: Path, checkpoint_every: int = 100
) -> int:
    """Train to the last step, from the latest checkpoint in the folder if there is one.

    Args:
        system: what is trained; holds the result afterwards.
        lessons: the data.
        folder: gets ``checkpoints/`` and ``logs/``.
        checkpoint_every: updates between checkpoints.

    Returns:
        The step training began with, 0 without a checkpoint.

    Raises:
        UserError: training diverged, or the folder belongs to another training.
    """
    if find_checkpoint(folder / "checkpoints", system.identity) is None:
        system.head.start_from(lessons.descriptors())
    recording = Recording("training the matcher", checkpoint_every, advice="Lower --learning-rate")
    return fit(system, lessons, folder, recording, device=lessons.observatory.model.device)


def new_head(width: int, dim: int, blocks: int, seed: int) -> MatchingHead:
    """A head whose start depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MatchingHead(width, dim, blocks)


def task_identity(config: Config, about: dict[str, Any]) -> str:
    """Names a training: everything its result depends on but the number of threads."""
    plain = {
        "extractor": config.extractor,
        "trajectory": config.trajectory,
        "model": config.model.path,
        "steps": config.sampler.num_inference_steps,
        **about,
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
