"""CLIP for the embedded world: contrastive on captions, plus zero-shot classification.

The text tower is the text encoder of the diffusion pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.data import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
    brighten,
    labels_of,
    masks_of,
    pictures_of,
    shift,
)
from framework.toyworld.pretrain.stage import Batch, Stage, StageConfig
from framework.toyworld.scene import PLACES


@dataclass
class CLIPStageConfig(StageConfig):
    """Options of the training of CLIP.

    Attributes:
        width: Of both towers.
        text_layers: Layers of the text tower.
        vision_layers: Layers of the vision tower.
        projection: Width of the common space.
        patch: Side of a patch, pixels.
        contrastive: Weight of the contrastive loss; each zero-shot loss has 1.
        dense: Weight of predicting, with a head that is not kept, the object's share of each patch
            and on the object its category and main colour.
        shift: Largest random shift, pixels.
        brightness: Strength of random gain and offset.
        full: Fraction of the captions that tell everything.
        nouns: Categories a step whose colour prompts are told apart, beside those of "toy".
        vision_only: Goes on training the vision tower with the text tower frozen.
    """

    minutes: float = 18.0
    batch_size: int = 64
    lr: float = 5e-4
    warmup_steps: int = 150
    weight_decay: float = 0.05
    ema: float = 0.998
    width: int = 192
    text_layers: int = 3
    vision_layers: int = 6
    projection: int = 128
    patch: int = 16
    contrastive: float = 0.5
    dense: float = 0.5
    shift: int = 8
    brightness: float = 0.12
    full: float = 0.5
    nouns: int = 3
    vision_only: bool = False


def build_clip(tokenizer: CLIPTokenizer, config: CLIPStageConfig, size: int = 128) -> CLIPModel:
    """A fresh CLIP for a tokenizer; text is pooled at the first end token."""
    heads = max(1, config.width // 64)
    common = {
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "projection_dim": config.projection,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        num_hidden_layers=config.text_layers,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **common,
    )
    vision = CLIPVisionConfig(
        image_size=size, patch_size=config.patch, num_hidden_layers=config.vision_layers, **common
    )
    return CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=config.projection,
        )
    )


def caption_batches(world: RenderedWorld, tokenizer: CLIPTokenizer, config: CLIPStageConfig) -> Any:
    """Batches of augmented pictures, newly drawn captions, labels and masks."""

    def draw(rng: np.random.Generator) -> Batch:
        indices = rng.integers(0, len(world), config.batch_size)
        scenes = [world.scenes[i] for i in indices]
        pictures = shift(pictures_of(world, indices), config.shift, rng)
        texts = prompts.random_captions(scenes, rng, config.full)
        side = world.images.shape[1] // config.patch
        return {
            "pictures": brighten(pictures, config.brightness, rng),
            "ids": prompts.token_ids(tokenizer, texts, 0),
            "nouns": torch.from_numpy(rng.permutation(len(CATEGORY_NAMES))[: config.nouns]),
            "masks": masks_of(world, indices, side).flatten(1),
            **labels_of(scenes),
        }

    return draw


class CLIPStage(Stage):
    """Training of CLIP.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        config: Options.
        world: Training renders.
        validation: Held-out renders to classify now and then.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        config: CLIPStageConfig,
        world: RenderedWorld,
        validation: RenderedWorld | None = None,
    ) -> None:
        super().__init__(clip, config, caption_batches(world, tokenizer, config))
        self.heads = nn.ModuleDict(
            {"dense": nn.Linear(config.width, 1 + len(CATEGORY_NAMES) + len(COLOUR_NAMES))}
        )
        self.tokenizer, self.validation = tokenizer, validation
        texts = prompts.category_prompts() + prompts.place_prompts()
        texts += prompts.colour_prompts("toy") + prompts.all_colour_prompts()
        self.class_ids = prompts.token_ids(tokenizer, texts, 0)
        self.class_cache: Tensor | None = None
        # whitened filters of 768 inputs take no learning rate that suits the rest (MoCo v3)
        clip.vision_model.embeddings.patch_embedding.requires_grad_(False)
        if config.vision_only:
            with torch.no_grad():
                self.class_cache = text_features(clip, self.class_ids)
            clip.text_model.requires_grad_(False)
            clip.text_projection.requires_grad_(False)

    def class_features(self, nouns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings of the prompts: categories, places, "toy" colours, colours of the nouns."""
        sizes = [len(CATEGORY_NAMES), len(PLACES), len(COLOUR_NAMES)]
        start, colours = sum(sizes), len(COLOUR_NAMES)
        rows = [torch.arange(start)]
        rows += [start + int(noun) * colours + torch.arange(colours) for noun in nouns]
        chosen = torch.cat(rows)
        if self.class_cache is not None:
            features = self.class_cache[chosen]
        else:
            features = text_features(self.network, self.class_ids[chosen])
        first, second, third, rest = features.split([*sizes, len(nouns) * colours])
        return first, second, third, rest.unflatten(0, (len(nouns), -1))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive, zero-shot and dense losses."""
        c, clip = self.config, self.network
        vision = clip.vision_model(batch["pictures"])
        images = F.normalize(clip.visual_projection(vision.pooler_output).float(), dim=-1)
        texts = text_features(clip, batch["ids"])
        classes = self.class_features(batch["nouns"])
        scale = clip.logit_scale.exp().clamp(max=100.0)
        logits = scale * images @ texts.T
        same = (batch["ids"][:, None] == batch["ids"][None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        contrastive = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        figures = {"contrastive": contrastive}
        value = c.contrastive * contrastive
        scores = {
            "category": images @ classes[0].T,
            "place": images @ classes[1].T,
            "colour": images @ classes[2].T,
        }
        for name, cosines in scores.items():
            value = value + F.cross_entropy(scale * cosines, batch[name])
            figures[name] = (cosines.argmax(-1) == batch[name]).float().mean()
        chosen = batch["category"][:, None] == batch["nouns"][None]
        if chosen.any():
            image, noun = chosen.nonzero(as_tuple=True)
            cosines = torch.einsum("bd,bcd->bc", images[image], classes[3][noun])
            errors = F.cross_entropy(scale * cosines, batch["colour"][image], reduction="sum")
            value = value + errors * len(CATEGORY_NAMES) / (len(batch["nouns"]) * len(images))
        dense = self.dense_loss(vision.last_hidden_state[:, 1:], batch)
        figures["dense"] = dense
        return value + c.dense * dense, figures

    def dense_loss(self, patches: Tensor, batch: Batch) -> Tensor:
        """Object's share of each patch, category and colour of its patches, (B, P, width)."""
        sizes = [1, len(CATEGORY_NAMES), len(COLOUR_NAMES)]
        shares, *classes = self.heads["dense"](patches).float().split(sizes, dim=-1)
        value = F.binary_cross_entropy_with_logits(shares[..., 0], batch["masks"])
        weights = batch["masks"] / batch["masks"].sum().clamp_min(1.0)
        for name, logits in zip(("category", "colour"), classes, strict=True):
            target = batch[name][:, None].expand(-1, logits.shape[1])
            errors = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
            value = value + (errors * weights).sum()
        return value

    def sheet(self) -> dict[str, Any]:
        """Zero-shot accuracy of the average on held-out renders."""
        if self.validation is None:
            return {}
        indices = np.arange(0, len(self.validation), max(1, len(self.validation) // 256))
        scenes = [self.validation.scenes[i] for i in indices]
        pictures = pictures_of(self.validation, indices)
        return zero_shot(self.average, self.tokenizer, pictures, labels_of(scenes))


def text_features(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Normalised text embeddings, float32 (B, projection)."""
    pooled = clip.text_model(input_ids=ids).pooler_output
    return F.normalize(clip.text_projection(pooled).float(), dim=-1)


def image_features(clip: CLIPModel, pictures: Tensor, batch: int = 64) -> Tensor:
    """Normalised image embeddings, float32 (B, projection), of pictures in -1..1."""
    parts = []
    for part in pictures.split(batch):
        with torch.autocast("cpu", torch.bfloat16):
            pooled = clip.visual_projection(clip.vision_model(part).pooler_output)
        parts.append(F.normalize(pooled.float(), dim=-1))
    return torch.cat(parts)


def class_scores(images: Tensor, classes: Tensor, category: Tensor) -> dict[str, Tensor]:
    """Cosines of images to the class prompts.

    Args:
        images: Image embeddings, (B, D).
        classes: Embeddings of category, place and all colour prompts, in this order.
        category: True category of each image, (B,): colours are told within it.

    Returns:
        ``category`` (B, categories), ``place`` (B, places), ``colour`` (B, colours).
    """
    first, last = len(CATEGORY_NAMES), len(CATEGORY_NAMES) * len(COLOUR_NAMES)
    by_category = classes[-last:].unflatten(0, (first, -1))
    return {
        "category": images @ classes[:first].T,
        "place": images @ classes[first:-last].T,
        "colour": torch.einsum("bd,bcd->bc", images, by_category[category]),
    }


@torch.no_grad()
def zero_shot(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Tensor, labels: dict[str, Tensor]
) -> dict[str, float]:
    """Share of pictures whose category, place and main colour are told by the prompts.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        pictures: (B, 3, H, W) in -1..1.
        labels: ``category``, ``place``, ``colour``: class numbers (B,).
    """
    texts = prompts.category_prompts() + prompts.place_prompts() + prompts.all_colour_prompts()
    classes = text_features(clip, prompts.token_ids(tokenizer, texts, 0))
    scores = class_scores(image_features(clip, pictures), classes, labels["category"])
    return {
        name: float((value.argmax(-1) == labels[name]).float().mean())
        for name, value in scores.items()
    }
