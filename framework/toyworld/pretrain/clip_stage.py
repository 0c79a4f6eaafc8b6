"""The training of CLIP's vision tower: prompts, captions and a dense loss, beside frozen text."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer, VisionTextDualEncoderModel

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.palette import PATTERNS
from framework.toyworld.pretrain import prompts
from framework.toyworld.pretrain.clip import class_scores, text_features, zero_shot
from framework.toyworld.pretrain.data import (
    ACCESSORY_NAMES,
    CATEGORY_NAMES,
    COLOUR_NAMES,
    brighten,
    labels_of,
    masks_of,
    pictures_of,
    warp,
)
from framework.toyworld.pretrain.stage import Batch, MakeBatch, Stage, StageConfig

logger = logging.getLogger(__name__)


@dataclass
class CLIPStageConfig(StageConfig):
    """Options of the training of CLIP's vision tower.

    Attributes:
        fresh: Starts with a new vision tower, else with that of ``models/clip``.
        channels: Of a new vision tower's maps.
        half: Fraction of the budget with pictures of half the size: four times as many.
        contrastive: Weight of the contrastive loss on captions; each zero-shot loss has 1.
        dense: Weight of predicting, with a head that is not kept, the object's share of each cell
            and on the object its category and main colour.
        details: Weight of telling main pattern and accessory by linear maps, not kept, from what
            the tower gives: so that a probe can, too.
        warp: Strength of random zoom, turn, stretch and shift.
        brightness: Strength of random gain and offset.
        blur: Fraction of the full-size pictures that are blurred.
        decoded: Pictures that are also kept as ``models/vae`` decodes them, with a little noise on
            their latents, since CLIP shall judge what a diffusion pipeline draws.
        decoded_share: Fraction of a batch that is of those.
    """

    minutes: float = 25.0
    batch_size: int = 64
    optimizer: str = "muon"
    lr: float = 0.02
    warmup_steps: int = 60
    weight_decay: float = 0.02
    hold: float = 0.2
    ema: float = 0.995
    clip_norm: float = 2.0
    fresh: bool = True
    channels: tuple[int, ...] = (32, 64, 128, 256)
    half: float = 0.5
    contrastive: float = 0.5
    dense: float = 0.5
    details: float = 0.3
    warp: float = 1.0
    brightness: float = 0.12
    blur: float = 0.25
    decoded: int = 1200
    decoded_share: float = 0.25


class CLIPStage(Stage):
    """Training of CLIP's vision tower.

    Args:
        clip: The model; its text tower stays as it is.
        tokenizer: Its tokenizer.
        config: Options.
        world: Training renders.
        validation: Held-out renders to classify now and then.
        decoded: Pictures as the autoencoder gives them, see :func:`decode_some`.
    """

    def __init__(
        self,
        clip: VisionTextDualEncoderModel,
        tokenizer: CLIPTokenizer,
        config: CLIPStageConfig,
        world: RenderedWorld,
        validation: RenderedWorld | None = None,
        decoded: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        super().__init__(clip, config, picture_batches(world, config, decoded))
        cells = clip.config.vision_config.hidden_size // 2
        classes = 1 + len(CATEGORY_NAMES) + len(COLOUR_NAMES)
        pooled = clip.config.vision_config.hidden_size
        self.heads = nn.ModuleDict(
            {
                "dense": nn.Linear(cells, classes),
                "pattern": nn.Linear(pooled, len(PATTERNS)),
                "accessory": nn.Linear(pooled, len(ACCESSORY_NAMES)),
            }
        )
        self.tokenizer, self.validation = tokenizer, validation
        clip.text_model.requires_grad_(False)
        clip.text_projection.requires_grad_(False)
        clip.logit_scale.requires_grad_(False)
        self.register_buffer("captions", caption_bank(clip, tokenizer, world), persistent=False)
        texts = prompts.category_prompts() + prompts.place_prompts() + prompts.all_colour_prompts()
        with torch.no_grad():
            found = text_features(clip, prompts.token_ids(tokenizer, texts, 0))
        self.register_buffer("classes", found, persistent=False)

    def is_outer(self, name: str) -> bool:
        """The first layer and the projection."""
        return ".stem." in name or name.startswith("visual_projection")

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive, zero-shot and dense losses, and the details'."""
        c, clip, pictures = self.config, self.network, batch["pictures"]
        if self.progress < c.half:
            pictures = F.avg_pool2d(pictures, 2)
        vision = clip.vision_model(pictures.contiguous(memory_format=torch.channels_last))
        images = F.normalize(clip.visual_projection(vision.pooler_output).float(), dim=-1)
        scale = clip.logit_scale.exp()
        logits = scale * images @ self.captions[batch["indices"], batch["which"]].T
        target = torch.arange(len(images), device=logits.device)
        contrast = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        value, figures = c.contrastive * contrast, {"contrastive": contrast}
        for name, scores in class_scores(images, self.classes, batch["category"]).items():
            value = value + F.cross_entropy(scale * scores, batch[name])
            figures[name] = (scores.argmax(-1) == batch[name]).float().mean()
        for name in ("pattern", "accessory"):
            told = self.heads[name](vision.pooler_output.flatten(1)).float()
            value = value + c.details * F.cross_entropy(told, batch[name])
            figures[name] = (told.argmax(-1) == batch[name]).float().mean()
        dense = self.dense_loss(vision.last_hidden_state, batch)
        figures["dense"] = dense
        return value + c.dense * dense, figures

    def dense_loss(self, maps: Tensor, batch: Batch) -> Tensor:
        """Object's share of each cell, category and colour of its cells, (B, C, h, w)."""
        sizes = [1, len(CATEGORY_NAMES), len(COLOUR_NAMES)]
        cells = maps.flatten(2).transpose(1, 2)
        shares, *classes = self.heads["dense"](cells).float().split(sizes, dim=-1)
        masks = F.adaptive_avg_pool2d(batch["masks"], maps.shape[-1]).flatten(1)
        value = F.binary_cross_entropy_with_logits(shares[..., 0], masks)
        weights = masks / masks.sum().clamp_min(1.0)
        for name, logits in zip(("category", "colour"), classes, strict=True):
            target = batch[name][:, None].expand(-1, logits.shape[1])
            errors = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
            value = value + (errors * weights).sum()
        return value

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Averages the weights, and follows the batch statistics, which are averages already."""
        super().on_train_batch_end(outputs, batch, index)
        pairs = zip(self.average.buffers(), self.network.buffers(), strict=True)
        for target, source in pairs:
            target.copy_(source)

    def sheet(self) -> dict[str, Any]:
        """Zero-shot accuracy of the average on held-out renders, full size."""
        if self.validation is None:
            return {}
        indices = np.arange(0, len(self.validation), max(1, len(self.validation) // 256))
        labels = labels_of([self.validation.scenes[i] for i in indices])
        pictures = pictures_of(self.validation, indices)
        return zero_shot(self.average, self.tokenizer, pictures, labels)


@torch.no_grad()
def caption_bank(
    clip: VisionTextDualEncoderModel, tokenizer: CLIPTokenizer, world: RenderedWorld
) -> Tensor:
    """Embeddings of two captions of each picture, full and shortened, (N, 2, projection)."""
    rng = np.random.default_rng(0)
    banks = []
    for full in (1.0, 0.0):
        texts = prompts.random_captions(world.scenes, rng, full)
        order = np.argsort([len(text.split()) for text in texts])  # little padding
        bank = torch.empty(len(texts), clip.config.projection_dim)
        for some in np.array_split(order, max(1, len(order) // 256)):
            ids = prompts.token_ids(tokenizer, [texts[i] for i in some], 0)
            bank[some] = text_features(clip, ids)
        banks.append(bank)
    return torch.stack(banks, dim=1)


def picture_batches(
    world: RenderedWorld,
    config: CLIPStageConfig,
    decoded: tuple[np.ndarray, np.ndarray] | None = None,
) -> MakeBatch:
    """Batches of augmented pictures with masks, labels and numbers of captions.

    Pictures are mirrored at random, except where the caption says left or right.
    """
    sided = torch.tensor([scene.condition in ("left", "right") for scene in world.scenes])
    labels = labels_of(world.scenes)

    def draw(rng: np.random.Generator) -> Batch:
        count, size = config.batch_size, world.images.shape[1]
        indices = rng.integers(0, len(world), count)
        some = int(config.decoded_share * count) if decoded is not None else 0
        if decoded is not None and some:
            at = rng.integers(0, len(decoded[0]), some)
            indices[:some] = decoded[0][at]
        pictures, masks = pictures_of(world, indices), masks_of(world, indices, size)
        if decoded is not None and some:
            pictures[:some] = torch.from_numpy(decoded[1][at]).permute(0, 3, 1, 2) / 127.5 - 1.0
        soft = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
        pictures = torch.where(chance(rng, count, config.blur), soft, pictures)
        flips = chance(rng, count, 0.5) & ~sided[indices].view(-1, 1, 1, 1)
        pictures, masks = warp(pictures, masks, config.warp, rng)
        pictures = torch.where(flips, pictures.flip(-1), pictures)
        return {
            "pictures": brighten(pictures, config.brightness, rng),
            "masks": torch.where(flips, masks.flip(-1), masks),
            "indices": torch.from_numpy(indices),
            "which": torch.from_numpy(rng.integers(0, 2, count)),
            **{name: value[indices] for name, value in labels.items()},
        }

    return draw


def chance(rng: np.random.Generator, count: int, share: float) -> Tensor:
    """Which of ``count`` pictures are chosen, bool (count, 1, 1, 1)."""
    return torch.from_numpy(rng.random(count) < share).view(-1, 1, 1, 1)


@torch.no_grad()
def decode_some(
    vae: AutoencoderKL, world: RenderedWorld, count: int, path: Path, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the autoencoder decodes them from slightly noisy latents; kept in a file.

    Args:
        vae: The autoencoder.
        world: The set.
        count: How many of its pictures, at most all.
        path: ``.npz`` file, read where it is there.
        seed: Of choice and noise.

    Returns:
        Numbers of the pictures (count,), and pictures uint8 (count, H, W, 3).
    """
    if path.exists():
        with np.load(path) as found:
            return found["indices"], found["pictures"]
    logger.info("decoding %d pictures, once", count)
    generator = torch.Generator().manual_seed(seed)
    indices = np.sort(np.random.default_rng(seed).permutation(len(world))[:count])
    parts = []
    for some in np.array_split(indices, max(1, len(indices) // 16)):
        latents = vae.encode(pictures_of(world, some)).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator) * latents.std()
        strength = 0.25 * torch.rand(len(some), 1, 1, 1, generator=generator)
        pictures = vae.decode(latents + strength * noise).sample.clamp(-1.0, 1.0)
        parts.append(((pictures + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    np.savez(part, indices=indices, pictures=np.concatenate(parts))
    part.with_suffix(".npz").replace(path)
    return indices, np.concatenate(parts)
