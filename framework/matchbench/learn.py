"""Training of the ``learned`` matcher's head on pairs whose correspondence is known."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from framework.config import Config
from framework.errors import UserError
from framework.geometry import resize_grid
from framework.interfaces import FeatureExtractor
from framework.matchbench.folder import hash_of
from framework.matchbench.measures import at_points, end_point_errors, predicted_points
from framework.matchbench.observe import Observatory
from framework.matchbench.pairs import Source, Target
from framework.progress import no_progress
from framework.training.callbacks import (
    AtomicCheckpointIO,
    Bar,
    Checkpoints,
    find_checkpoint,
)
from framework.training.quiet import quiet_lightning
from framework.training.system import Optimization
from matchers.learned import MatchingHead, match_projected

#: A match counts as right within this share of the box; what confidence is calibrated to.
RIGHT = 0.1
#: Width, in cells, of the target distribution about the true match.
SPREAD = 0.7
#: Lessons kept to be repeated.
REMEMBERED = 64


@dataclass(frozen=True)
class Lesson:
    """Descriptors of a group at one step, and the truth.

    Attributes:
        target: (K, H, W, D).
        reference: (K, H, W, D).
        targets: the K targets and their points.
    """

    target: Tensor
    reference: Tensor
    targets: tuple[Target, ...]


class Lessons(IterableDataset):
    """Groups of a source, one after the other, each at a few random sampling steps; without end.

    The model's work is most of the cost of a lesson, so each new one is followed by some of the
    latest ones again.

    Args:
        observatory: shows groups to the model.
        extractor: makes the descriptors.
        source: groups by index, of which any may be asked for.
        looks: steps at which each group is shown.
        repeats: earlier lessons after each new one.
        seed: of the noise, the steps and the repetitions.

    Attributes:
        start: lessons to pass over, where an interrupted training goes on.
    """

    def __init__(
        self,
        observatory: Observatory,
        extractor: FeatureExtractor,
        source: Source,
        looks: int = 2,
        repeats: int = 2,
        seed: int = 0,
    ) -> None:
        self.observatory, self.extractor, self.source = observatory, extractor, source
        self.looks, self.repeats, self.seed, self.start = looks, repeats, seed, 0

    def __iter__(self) -> Iterator[Lesson]:
        number = self.start // ((1 + self.repeats) * self.looks)
        rng = np.random.default_rng([self.seed, number, REMEMBERED])
        latest: deque[Lesson] = deque(maxlen=REMEMBERED)
        while True:
            for lesson in self.group(number):
                latest.append(lesson)
                yield lesson
                for place in rng.integers(len(latest), size=self.repeats):
                    yield latest[place]
            number += 1

    def group(self, number: int) -> Iterator[Lesson]:
        """The lessons of one group."""
        config, observatory = self.observatory.config, self.observatory
        rng = np.random.default_rng([self.seed, number])
        total = len(observatory.denoiser.timesteps)
        steps = sorted(rng.choice(total, min(self.looks, total), replace=False).tolist())
        group = self.source[number]
        if "seed" in config.trajectory:  # noise of its own for every reference
            own = hash_of(self.seed, number)
            observatory.trajectory = config.part("trajectory", seed=own)
        with torch.no_grad(), no_progress():
            prepared = observatory.prepare(group, hash_of(self.seed + 1, number))
            for look in observatory.look(prepared, self.extractor, steps):
                yield Lesson(look.features.target, look.features.reference, group.targets)


class MatchingSystem(pl.LightningModule):
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
            UserError: it is not finite.
        """
        found, trust, right = lesson_losses(self.head, lesson, self._size)
        # Matched layers have coarser grids, too.
        found_coarse, trust_coarse, _ = lesson_losses(self.head, coarser(lesson), self._size)
        loss = found + 0.3 * trust + 0.3 * (found_coarse + 0.3 * trust_coarse)
        if not torch.isfinite(loss):
            raise UserError(
                f"Training was stopped in step {self.global_step}: the loss is {loss.item()}. "
                "Lower --learning-rate, with another output folder."
            )
        values = {"loss": loss, "matching": found, "confidence": trust, "pck@0.1": right}
        self.log_dict({k: v.detach() for k, v in values.items()}, batch_size=1)
        return loss

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the task's identity into a checkpoint."""
        checkpoint["identity"] = self.identity


def coarser(lesson: Lesson) -> Lesson:
    """The same on a grid of half the size."""
    height, width = (max(1, side // 2) for side in lesson.target.shape[1:3])
    sized = [
        F.normalize(resize_grid(grid, height, width), dim=-1)
        for grid in (lesson.target, lesson.reference)
    ]
    return Lesson(sized[0], sized[1], lesson.targets)


def lesson_losses(
    head: MatchingHead, lesson: Lesson, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of one lesson.

    Args:
        head: the head.
        lesson: the lesson.
        size: (height, width) of the pictures in pixels.

    Returns:
        Loss of the matches, loss of the confidence, and PCK at :data:`RIGHT`; scalars.
    """
    shared = all(torch.equal(lesson.reference[0], row) for row in lesson.reference[1:])
    targets = head(lesson.target)
    references = head(lesson.reference[:1] if shared else lesson.reference)
    references = references.expand_as(targets)
    with torch.no_grad():
        flow, *signs = match_projected(head, targets, references)
    losses, logits, labels, right = [], [], [], []
    for row, target in enumerate(lesson.targets):
        here, there = (to_cells(p, targets, size) for p in (target.points, target.truth))
        seen = target.visible.to(here.device)
        if seen.any():
            one, other = targets[row], references[row]
            losses.append(matching_loss(head, one, other, here[seen], there[seen]))
            losses.append(matching_loss(head, other, one, there[seen], here[seen]))
        predicted = predicted_points(flow[row].cpu(), target.points, size)
        scale = torch.tensor(target.scale)
        errors = end_point_errors(predicted * scale, target.truth * scale)
        good = ((errors <= RIGHT * target.box) & target.visible).to(here.device)
        places = target.points.to(here.device)
        logits.append(head.logit(*(at_points(sign[row], places, size) for sign in signs)))
        labels.append(good.float())
        right.append(good[seen].float())
    nothing = targets.sum() * 0
    found = torch.stack(losses).mean() if losses else nothing
    logit, label = torch.cat(logits), torch.cat(labels)
    trust = F.binary_cross_entropy_with_logits(logit, label) if len(label) else nothing
    hits = torch.cat(right)
    return found, trust, hits.mean() if len(hits) else nothing.detach()


def to_cells(points: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (P, 2) -> positions in cells of a grid (K, H, W, D), whole numbers being centres."""
    factor = torch.tensor([grid.shape[2] / size[1], grid.shape[1] / size[0]])
    return ((points + 0.5) * factor - 0.5).to(grid.device)


def matching_loss(
    head: MatchingHead, one: Tensor, other: Tensor, here: Tensor, there: Tensor
) -> Tensor:
    """Cross entropy of finding points of one image in the other.

    Args:
        head: gives the softmax its sharpness.
        one: (H, W, d).
        other: (H, W, d).
        here: (P, 2), positions in cells of ``one``.
        there: (P, 2), where they lie in ``other``.
    """
    height, width = other.shape[:2]
    queries = F.normalize(sample(one, here), dim=-1)
    logits = head.scale * queries @ other.flatten(0, 1).T
    columns = torch.arange(width, device=here.device) - there[:, :1]
    rows = torch.arange(height, device=here.device) - there[:, 1:]
    distance = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    wanted = (-distance.flatten(1) / (2 * SPREAD**2)).softmax(dim=-1)
    return -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def sample(grid: Tensor, positions: Tensor) -> Tensor:
    """Bilinear look-up of (P, 2) positions, in cells, in a grid (H, W, d); (P, d)."""
    span = positions.new_tensor([max(1, grid.shape[1] - 1), max(1, grid.shape[0] - 1)]) / 2
    where = (positions / span - 1)[None, None]
    found = F.grid_sample(
        grid.movedim(-1, 0)[None], where, padding_mode="border", align_corners=True
    )
    return found[0, :, 0].T


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
    steps = system.optimization.steps
    found = find_checkpoint(folder / "checkpoints", system.identity)
    start = found[1] if found else 0
    if found and start >= steps:
        content = torch.load(found[0], map_location="cpu", weights_only=True)
        system.load_state_dict(content["state_dict"])
        return start
    lessons.start = start
    device = lessons.observatory.model.device
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            max_steps=steps,
            max_epochs=-1,
            gradient_clip_val=1.0,
            callbacks=[
                Bar("training the matcher", steps),
                Checkpoints(folder / "checkpoints", checkpoint_every),
            ],
            plugins=[LightningEnvironment(), AtomicCheckpointIO()],
            logger=CSVLogger(folder, name="logs", version=f"from-{start:06d}"),
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        loader = DataLoader(lessons, batch_size=None, generator=torch.Generator())
        try:
            trainer.fit(system, loader, ckpt_path=found[0] if found else None, weights_only=True)
        except SystemExit as error:  # Lightning leaves this way after Ctrl+C
            raise KeyboardInterrupt from error
    if trainer.global_step < steps:
        raise KeyboardInterrupt
    return start


def new_head(width: int, dim: int, blocks: int, seed: int) -> MatchingHead:
    """A head whose start depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = MatchingHead(width, dim, blocks)
        for block in head.blocks:
            nn.init.zeros_(block.mix[-1].weight)
            nn.init.zeros_(block.mix[-1].bias)
    return head


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
