"""A small convolutional network that teaches the vision tower.

A transformer of patches needs hundreds of thousands of pictures to find shapes by itself; a
convolutional network finds them in ten thousand. It learns to map pictures to the frozen text
embeddings, and the vision tower then learns from its embeddings and feature maps as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.clip import (
    CLIPStageConfig,
    caption_batches,
    class_scores,
    text_features,
)
from framework.toyworld.pretrain.data import labels_of, pictures_of
from framework.toyworld.pretrain.stage import Batch, Stage


@dataclass
class TeacherConfig(CLIPStageConfig):
    """Options of the teacher's training.

    Attributes:
        channels: Of the feature maps at 32, 16 and 8 cells.
    """

    minutes: float = 5.0
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
    """Pictures (B, 3, 128, 128) -> embeddings (B, projection) and a map (B, channels, 8, 8).

    Args:
        channels: Of the three resolutions.
        projection: Width of the embeddings.
    """

    def __init__(self, channels: tuple[int, ...], projection: int) -> None:
        super().__init__()
        first, second, third = channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 4, 4, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.first = _convolution(first, first)
        self.down1 = _convolution(first, second, 2)
        self.second = nn.Sequential(_convolution(second, second), _convolution(second, second))
        self.down2 = _convolution(second, third, 2)
        self.third = nn.Sequential(_convolution(third, third), _convolution(third, third))
        self.project = nn.Linear(2 * third, projection)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Returns normalised embeddings and the last feature map."""
        x = self.stem(pictures.contiguous(memory_format=torch.channels_last))
        x = self.down1(x + self.first(x))
        x = self.down2(x + self.second(x))
        x = x + self.third(x)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return F.normalize(self.project(pooled).float(), dim=-1), x


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
        self.validation, self.frozen = validation, (clip.requires_grad_(False),)
        texts = prompts.category_prompts() + prompts.place_prompts() + prompts.all_colour_prompts()
        with torch.no_grad():
            self.classes = text_features(clip, prompts.token_ids(tokenizer, texts, 0))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive and zero-shot losses."""
        images, _ = self.network(batch["pictures"])
        with torch.no_grad():
            texts = text_features(self.frozen[0], batch["ids"])
        scale = self.frozen[0].logit_scale.exp().clamp(max=50.0)
        logits = scale * images @ texts.T
        target = torch.arange(len(images))
        value = 0.5 * F.cross_entropy(logits, target)
        figures = {"contrastive": value}
        for name, scores in class_scores(images, self.classes, batch["category"]).items():
            value = value + F.cross_entropy(scale * scores, batch[name])
            figures[name] = (scores.argmax(-1) == batch[name]).float().mean()
        return value, figures

    def sheet(self) -> dict[str, Any]:
        """Zero-shot accuracy on held-out renders."""
        if self.validation is None:
            return {}
        indices = np.arange(0, len(self.validation), max(1, len(self.validation) // 256))
        labels = labels_of([self.validation.scenes[i] for i in indices])
        self.network.eval()
        images, _ = self.network(pictures_of(self.validation, indices))
        self.network.train()
        scores = class_scores(images, self.classes, labels["category"])
        return {k: float((v.argmax(-1) == labels[k]).float().mean()) for k, v in scores.items()}
