"""CLIP for the embedded world: a convolutional vision tower beside a transformer of words.

The text tower is the text encoder of the diffusion pipeline. The vision tower is a small ResNet,
as in half of the original CLIPs: from the few pictures that a CPU gets through, a transformer of
patches learns little. :class:`transformers.VisionTextDualEncoderModel` holds both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    TimmWrapperConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.data import CATEGORY_NAMES, COLOUR_NAMES
from framework.toyworld.pretrain.devices import device_of

TOWER = "resnetv2_18"


def build_clip(
    tokenizer: CLIPTokenizer,
    size: int = 128,
    width: int = 192,
    layers: int = 3,
    projection: int = 128,
    channels: tuple[int, ...] = (32, 64, 128, 256),
) -> VisionTextDualEncoderModel:
    """A fresh CLIP for a tokenizer; text is pooled at the first end token.

    Args:
        tokenizer: The tokenizer.
        size: Side of the pictures, pixels.
        width: Of the text tower.
        layers: Of the text tower.
        projection: Width of the common space.
        channels: Of the vision tower's maps at size / 4, / 8, / 16 and / 32.
    """
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=max(1, width // 64),
        num_hidden_layers=layers,
        hidden_act="gelu",
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return VisionTextDualEncoderModel(_config(text, size, channels))


def with_new_vision(
    clip: VisionTextDualEncoderModel, channels: tuple[int, ...] = (32, 64, 128, 256)
) -> VisionTextDualEncoderModel:
    """The text tower of a CLIP beside a vision tower that has seen nothing yet.

    Args:
        clip: The CLIP, of this module or a ``CLIPModel``.
        channels: Of the new vision tower.
    """
    size = clip.config.vision_config.image_size
    fresh = VisionTextDualEncoderModel(_config(clip.config.text_config, size, channels))
    for part in ("text_model", "text_projection"):
        getattr(fresh, part).load_state_dict(getattr(clip, part).state_dict())
    fresh.logit_scale.data.copy_(clip.logit_scale.data)
    return fresh


def _config(
    text: CLIPTextConfig, size: int, channels: tuple[int, ...]
) -> VisionTextDualEncoderConfig:
    vision = TimmWrapperConfig(
        architecture=TOWER,
        model_args={
            "layers": [1] * len(channels),
            "channels": list(channels),
            "stem_chs": channels[0],
            "global_pool": "catavgmax",
        },
        hidden_size=2 * channels[-1],
        image_size=size,
    )
    return VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=text.projection_dim
    )


def text_features(clip: VisionTextDualEncoderModel, ids: Tensor) -> Tensor:
    """Normalised text embeddings, float32 (B, projection)."""
    pooled = clip.text_model(input_ids=ids).pooler_output
    return F.normalize(clip.text_projection(pooled).float(), dim=-1)


def image_features(clip: VisionTextDualEncoderModel, pictures: Tensor, batch: int = 64) -> Tensor:
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
    clip: VisionTextDualEncoderModel,
    tokenizer: CLIPTokenizer,
    pictures: Tensor,
    labels: dict[str, Tensor],
) -> dict[str, float]:
    """Share of pictures whose category, place and main colour are told by the prompts.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        pictures: (B, 3, H, W) in -1..1.
        labels: ``category``, ``place``, ``colour``: class numbers (B,); ``colour2`` where
            known, see :func:`framework.toyworld.pretrain.data.labels_of`.

    Returns:
        ``category``, ``place``, ``colour``; with ``colour2`` also ``colour_either``: one of the
        main part's two colours. In stripes, rings, checks and zigzags both cover the same area, and
        nothing in the picture says which one the grammar names first.
    """
    texts = prompts.category_prompts() + prompts.place_prompts() + prompts.all_colour_prompts()
    classes = text_features(clip, prompts.token_ids(tokenizer, texts, 0).to(device_of(clip)))
    images = image_features(clip, pictures)
    scores = class_scores(images, classes, labels["category"].to(images.device))
    chosen = {name: value.argmax(-1).cpu() for name, value in scores.items()}
    right = {name: value == labels[name] for name, value in chosen.items()}
    if "colour2" in labels:
        right["colour_either"] = right["colour"] | (chosen["colour"] == labels["colour2"])
    return {name: float(value.float().mean()) for name, value in right.items()}
