"""The training of CLIP: contrastive on captions, zero-shot classification, dense, by a teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.captioned import caption_batches
from framework.toyworld.pretrain.clip import CLIPStageConfig, text_features, zero_shot
from framework.toyworld.pretrain.data import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
    labels_of,
    pictures_of,
)
from framework.toyworld.pretrain.distil import Distillation
from framework.toyworld.pretrain.stage import Batch, Stage
from framework.toyworld.scene import PLACES


class CLIPStage(Stage):
    """Training of CLIP.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        config: Options.
        world: Training renders.
        validation: Held-out renders to classify now and then.
        distillation: Losses against a teacher.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        config: CLIPStageConfig,
        world: RenderedWorld,
        validation: RenderedWorld | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(clip, config, caption_batches(world, tokenizer, config))
        classes = 1 + len(CATEGORY_NAMES) + len(COLOUR_NAMES)
        self.heads = nn.ModuleDict({"dense": nn.Linear(config.width, classes)})
        if distillation is not None:
            self.heads["distillation"] = distillation
        self.tokenizer, self.validation = tokenizer, validation
        texts = prompts.category_prompts() + prompts.place_prompts()
        texts += prompts.colour_prompts("toy") + prompts.all_colour_prompts()
        self.register_buffer("class_ids", prompts.token_ids(tokenizer, texts, 0), persistent=False)
        self.register_buffer("class_cache", None, persistent=False)
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
        rows += [start + noun * colours + torch.arange(colours) for noun in nouns.tolist()]
        chosen = torch.cat(rows).to(self.class_ids.device)
        if self.class_cache is not None:
            features = self.class_cache[chosen]
        else:
            features = text_features(self.network, self.class_ids[chosen])
        first, second, third, rest = features.split([*sizes, len(nouns) * colours])
        return first, second, third, rest.unflatten(0, (len(nouns), -1))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive, zero-shot and dense losses."""
        c, clip = self.config, self.network
        taught = "distillation" in self.heads
        pictures = batch["pictures"]
        if taught:
            flips = torch.rand(len(pictures), device=pictures.device) < 0.5
            pictures = torch.where(flips[:, None, None, None], pictures.flip(-1), pictures)
            masks = batch["masks"].unflatten(1, (-1, pictures.shape[-1] // c.patch))
            masks = torch.where(flips[:, None, None], masks.flip(-1), masks).flatten(1)
            batch = batch | {"masks": masks}
        vision = clip.vision_model(pictures, output_hidden_states=taught)
        images = F.normalize(clip.visual_projection(vision.pooler_output).float(), dim=-1)
        classes = self.class_features(batch["nouns"])
        scale = clip.logit_scale.exp().clamp(max=100.0)
        value, figures = images.new_zeros(()), {}
        if taught:
            follow, hints = self.heads["distillation"](pictures, images, vision.hidden_states)
            value = value + c.follow * follow + c.hints * hints
            figures = {"follow": follow, "hints": hints}
        else:
            figures["contrastive"] = self.contrast(images, batch["ids"], scale)
            value = value + c.contrastive * figures["contrastive"]
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

    def contrast(self, images: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
        """Symmetric contrastive loss of pictures and captions; equal captions count as one."""
        logits = scale * images @ text_features(self.network, ids).T
        same = (ids[:, None] == ids[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))

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
