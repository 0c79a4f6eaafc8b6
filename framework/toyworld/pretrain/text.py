"""The text tower of CLIP, trained before the vision tower against what the scenes are made of.

A scene is known exactly, so captions need no pictures to get a meaning: a caption's embedding is
contrasted with that of its scene's attributes. This takes minutes, gives the U-Net its text
encoder, and gives the vision tower fixed targets (compare LiT, arXiv 2111.07991).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTokenizer, VisionTextDualEncoderModel

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.clip import class_scores, text_features
from framework.toyworld.pretrain.data import CATEGORY_NAMES, labels_of
from framework.toyworld.pretrain.stage import Batch, Stage, StageConfig
from framework.toyworld.scene import SceneSpec


@dataclass
class TextConfig(StageConfig):
    """Options of the text tower's training.

    Attributes:
        width: Of the scene encoder.
        tower: Width of the text tower.
        layers: Of the text tower.
        projection: Width of the common space.
        channels: Of the vision tower, which is not trained yet.
    """

    minutes: float = 4.0
    batch_size: int = 384
    lr: float = 1.5e-3
    ema: float = 0.995
    warmup_steps: int = 100
    weight_decay: float = 0.02
    width: int = 256
    tower: int = 192
    layers: int = 3
    projection: int = 128
    channels: tuple[int, ...] = (32, 64, 128, 256)


def attributes_of(scene: SceneSpec) -> list[str]:
    """What a scene is made of, one string each: category, place, every part's style, extras."""
    spec = scene.object
    main = spec.parts[spec.main]
    found = [
        f"category {spec.category}",
        f"place {scene.place}",
        f"condition {scene.condition}",
        f"main {main.colour}",
        f"pattern {main.pattern} {main.colour2 if main.pattern != 'solid' else ''}",
    ]
    found += [f"{part} {style.colour}" for part, style in spec.parts.items() if part != spec.main]
    if scene.accessory is not None:
        found += [f"accessory {scene.accessory.kind}", f"accessory {scene.accessory.colour}"]
    return found


class SceneEncoder(nn.Module):
    """Sum of the attributes' vectors, then a small residual network.

    Args:
        attributes: Every attribute there is; others count as unknown (row 0).
        width: Of the network.
        out: Width of the common space.
    """

    def __init__(self, attributes: list[str], width: int, out: int) -> None:
        super().__init__()
        self.index = {name: i + 1 for i, name in enumerate(attributes)}
        self.table = nn.EmbeddingBag(len(attributes) + 1, width, mode="sum", padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.3)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.out = nn.Linear(width, out, bias=False)

    def ids(self, scenes: list[SceneSpec]) -> Tensor:
        """Attribute numbers, (B, most), padded with 0."""
        rows = [[self.index.get(a, 0) for a in attributes_of(scene)] for scene in scenes]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def forward(self, ids: Tensor) -> Tensor:
        """Attribute numbers (B, most) -> normalised embeddings (B, out)."""
        summed = self.table(ids)
        return F.normalize(self.out(summed + self.mlp(summed)).float(), dim=-1)


class TextStage(Stage):
    """Contrasts captions with the attributes of their scenes.

    Args:
        clip: The model; only its text tower and text projection are trained.
        tokenizer: Its tokenizer.
        config: Options.
        world: Scenes to describe.
    """

    def __init__(
        self,
        clip: VisionTextDualEncoderModel,
        tokenizer: CLIPTokenizer,
        config: TextConfig,
        world: RenderedWorld,
    ) -> None:
        clip.vision_model.requires_grad_(False)
        clip.visual_projection.requires_grad_(False)
        known = sorted({name for scene in world.scenes for name in attributes_of(scene)})
        self.known = known
        encoder = SceneEncoder(known, config.width, clip.config.projection_dim)

        def draw(rng: np.random.Generator) -> Batch:
            scenes = [world.scenes[i] for i in rng.integers(0, len(world), config.batch_size)]
            texts = prompts.random_captions(scenes, rng)
            return {
                "ids": prompts.token_ids(tokenizer, texts, 0),
                "attributes": encoder.ids(scenes),
                **labels_of(scenes),
            }

        super().__init__(clip, config, draw)
        self.heads = nn.ModuleDict({"scene": encoder})
        texts = prompts.category_prompts() + prompts.place_prompts() + prompts.all_colour_prompts()
        self.register_buffer("class_ids", prompts.token_ids(tokenizer, texts, 0), persistent=False)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Symmetric contrastive loss, and the scenes told apart by the class prompts."""
        clip = self.network
        scenes = self.heads["scene"](batch["attributes"])
        texts = text_features(clip, batch["ids"])
        scale = clip.logit_scale.exp().clamp(max=100.0)
        logits = scale * scenes @ texts.T
        same = (batch["ids"][:, None] == batch["ids"][None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        value = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        figures = {"contrastive": value}
        if self.global_step % 2 == 0:  # the class prompts cost as much as a batch
            classes = text_features(clip, self.class_ids)
            scores = class_scores(scenes, classes, batch["category"])
            for name, cosines in scores.items():
                value = value + F.cross_entropy(scale * cosines, batch[name])
                figures[name] = (cosines.argmax(-1) == batch[name]).float().mean()
        return value, figures

    def sheet(self) -> dict[str, Any]:
        """Share of the category prompts nearest to themselves in meaning; a check on collapse."""
        with torch.no_grad():
            classes = text_features(self.average, self.class_ids)[: len(CATEGORY_NAMES)]
        return {"category_cosine": float((classes @ classes.T).fill_diagonal_(0).max())}
