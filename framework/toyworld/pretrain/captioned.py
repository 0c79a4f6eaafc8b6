"""Batches of pictures with captions, labels and masks, for CLIP and its teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import CLIPTokenizer

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.clip import CLIPStageConfig
from framework.toyworld.pretrain.data import (
    CATEGORY_NAMES,
    brighten,
    labels_of,
    masks_of,
    pictures_of,
    shift,
)
from framework.toyworld.pretrain.stage import Batch


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
