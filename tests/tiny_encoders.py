"""Tiny random encoders of the real classes, saved in the formats the real ones come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from tiny import tiny_tokenizer
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from framework.metrics.encoders import normalised


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP of one layer a tower, 32 px, 8 dimensions."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    layers = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = layers | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config=text,
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.2, 0.2],
    )
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_identity(folder: Path, seed: int = 0) -> Path:
    """A timm vision transformer of one layer, 32 px, 16 dimensions."""
    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=0,
    )
    save_for_hf(model, folder, model_config={"crop_pct": 1.0}, safe_serialization=True)
    return folder


def mean_colour(images: list[Image.Image]) -> torch.Tensor:
    """An encoder a hand can compute: the picture's mean colour, normalised."""
    if not images:
        return torch.empty(0, 3)
    arrays = [np.array(image.convert("RGB"), dtype=np.float32) for image in images]
    return normalised(torch.tensor(np.stack([array.mean(axis=(0, 1)) for array in arrays])))


def named_colours(texts: list[str]) -> torch.Tensor:
    """Its text tower: (1, 0, 0) for a text with "red", (0, 1, 0) with "green", else grey."""
    table = {"red": [1.0, 0.0, 0.0], "green": [0.0, 1.0, 0.0]}
    rows = [next((v for k, v in table.items() if k in text), [1.0, 1.0, 1.0]) for text in texts]
    return normalised(torch.tensor(rows))


def flat(colour: tuple[int, int, int], side: int = 32) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (side, side), colour)
