"""CLIP for the embedded world: contrastive on captions, plus zero-shot classification.

The text tower is the text encoder of the diffusion pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.data import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
)
from framework.toyworld.pretrain.devices import device_of
from framework.toyworld.pretrain.stage import StageConfig


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
        fresh: With ``vision_only``: starts the vision tower anew, else from ``models/clip``.
        follow: Weight of following a teacher's embedding, where one was trained; the pictures are
            then mirrored at random, and the captions left to the teacher.
        hints: Weight of following the teacher's feature maps.
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
    fresh: bool = True
    follow: float = 4.0
    hints: float = 1.0


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


def text_features(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Normalised text embeddings, float32 (B, projection)."""
    pooled = clip.text_model(input_ids=ids).pooler_output
    return F.normalize(clip.text_projection(pooled).float(), dim=-1)


def image_features(clip: CLIPModel, pictures: Tensor, batch: int = 64) -> Tensor:
    """Normalised image embeddings, float32 (B, projection), of pictures in -1..1."""
    parts = []
    for part in pictures.split(batch):
        part = part.to(device_of(clip))
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
    classes = text_features(clip, prompts.token_ids(tokenizer, texts, 0).to(device_of(clip)))
    images = image_features(clip, pictures)
    scores = class_scores(images, classes, labels["category"].to(images.device))
    return {
        name: float((value.argmax(-1).cpu() == labels[name]).float().mean())
        for name, value in scores.items()
    }
