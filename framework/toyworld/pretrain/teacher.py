"""A small convolutional network that teaches the vision tower of CLIP.

A transformer of patches needs millions of pictures to find shapes by itself; a convolutional
network finds them in some ten thousand. It learns to map pictures to the frozen text embeddings;
the vision tower then learns from its embeddings and feature maps as well (see :mod:`.distil`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.captioned import caption_batches
from framework.toyworld.pretrain.clip import CLIPStageConfig, class_scores, text_features
from framework.toyworld.pretrain.data import labels_of, pictures_of
from framework.toyworld.pretrain.devices import device_of
from framework.toyworld.pretrain.stage import Batch, Stage, averaged_weights


@dataclass
class TeacherConfig(CLIPStageConfig):
    """Options of the teacher's training.

    Attributes:
        channels: Of the feature maps at 32, 16 and 8 cells.
    """

    minutes: float = 25.0
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    full: float = 1.0
    channels: tuple[int, ...] = (48, 96, 192)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation and rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Teacher(nn.Module):
    """Pictures (B, 3, H, W) -> embeddings (B, projection), maps at H / 8 and H / 16.

    Args:
        channels: Of the three resolutions.
        projection: Width of the embeddings.
    """

    def __init__(self, channels: tuple[int, ...], projection: int) -> None:
        super().__init__()
        first, second, third = channels
        self.channels = tuple(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 4, 4, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.first = _convolution(first, first)
        self.down1 = _convolution(first, second, 2)
        self.second = nn.Sequential(_convolution(second, second), _convolution(second, second))
        self.down2 = _convolution(second, third, 2)
        self.third = nn.Sequential(_convolution(third, third), _convolution(third, third))
        self.project = nn.Linear(2 * third, projection)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised embeddings and the last two feature maps, (B, C, h, w)."""
        x = self.stem(pictures.contiguous(memory_format=torch.channels_last))
        x = self.down1(x + self.first(x))
        middle = x + self.second(x)
        x = self.down2(middle)
        x = x + self.third(x)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return F.normalize(self.project(pooled).float(), dim=-1), middle, x


def load_teacher(checkpoint: Path) -> Teacher:
    """The averaged teacher of a checkpoint, its statistics of batches included, frozen."""
    state = averaged_weights(checkpoint)
    channels = tuple(state[f"{name}.weight"].shape[0] for name in ("stem.0", "down1.0", "down2.0"))
    teacher = Teacher(channels, state["project.weight"].shape[0])
    teacher.load_state_dict(state)
    return teacher.requires_grad_(False).eval()


class TeacherStage(Stage):
    """Training of the teacher against frozen text embeddings.

    Args:
        teacher: The network.
        clip: Has the frozen text tower.
        tokenizer: Its tokenizer.
        config: Options.
        world: Training renders.
        validation: Held-out renders to classify now and then.
    """

    def __init__(
        self,
        teacher: Teacher,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        config: TeacherConfig,
        world: RenderedWorld,
        validation: RenderedWorld | None = None,
    ) -> None:
        super().__init__(teacher, config, caption_batches(world, tokenizer, config))
        self.validation, self.frozen = validation, (clip.requires_grad_(False).eval(),)
        texts = prompts.category_prompts() + prompts.place_prompts() + prompts.all_colour_prompts()
        with torch.no_grad():
            classes = text_features(clip, prompts.token_ids(tokenizer, texts, 0))
        self.register_buffer("classes", classes, persistent=False)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive and zero-shot losses."""
        images, _, _ = self.network(batch["pictures"])
        with torch.no_grad():
            texts = text_features(self.frozen[0], batch["ids"])
        scale = self.frozen[0].logit_scale.exp().clamp(max=50.0)
        logits = scale * images @ texts.T
        target = torch.arange(len(images), device=logits.device)
        value = 0.5 * F.cross_entropy(logits, target)
        figures = {"contrastive": value}
        for name, scores in class_scores(images, self.classes, batch["category"]).items():
            value = value + F.cross_entropy(scale * scores, batch[name])
            figures[name] = (scores.argmax(-1) == batch[name]).float().mean()
        return value, figures

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Averages the weights, and follows the batch statistics, which are averages already."""
        super().on_train_batch_end(outputs, batch, index)
        pairs = zip(self.average.buffers(), self.network.buffers(), strict=True)
        for target, source in pairs:
            target.copy_(source)

    def sheet(self) -> dict[str, Any]:
        """Zero-shot accuracy of the average on held-out renders."""
        if self.validation is None:
            return {}
        indices = np.arange(0, len(self.validation), max(1, len(self.validation) // 256))
        labels = labels_of([self.validation.scenes[i] for i in indices])
        pictures = pictures_of(self.validation, indices).to(device_of(self.average))
        images, _, _ = self.average(pictures)
        scores = class_scores(images, self.classes, labels["category"].to(images.device))
        return {
            name: float((value.argmax(-1).cpu() == labels[name]).float().mean())
            for name, value in scores.items()
        }
