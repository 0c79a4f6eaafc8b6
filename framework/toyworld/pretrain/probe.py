"""A linear probe on the judge's vision tower: which pattern and which accessory a picture shows.

CLIP's own captions name both, but a caption also says other things; a linear map from what the
tower sees is the simplest judge whose accuracy on renders can be stated.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import VisionTextDualEncoderModel

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.palette import PATTERNS
from framework.toyworld.pretrain.data import ACCESSORY_NAMES, labels_of, pictures_of
from framework.toyworld.pretrain.devices import device_of
from framework.toyworld.pretrain.vae import reconstruct

logger = logging.getLogger(__name__)

FILE = "probe.safetensors"
ATTRIBUTES: dict[str, tuple[str, ...]] = {"pattern": PATTERNS, "accessory": ACCESSORY_NAMES}
"""What is told, and its classes."""


@dataclass(frozen=True)
class Probe:
    """Linear maps from features of the tower.

    Attributes:
        mean: Of the features, (D,).
        scale: One over their standard deviation, (D,).
        maps: Attribute -> (classes, D + 1), the last column added to each class.
    """

    mean: Tensor
    scale: Tensor
    maps: dict[str, Tensor]

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """Scores of each attribute's classes, (B, classes), of features (B, D)."""
        inputs = with_one((features - self.mean) * self.scale)
        return {name: inputs @ weights.T for name, weights in self.maps.items()}

    def save(self, folder: Path) -> None:
        """Writes ``probe.safetensors``, and the names of the classes beside it."""
        tensors = {"mean": self.mean, "scale": self.scale, **self.maps}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / FILE)
        names = {name: list(values) for name, values in ATTRIBUTES.items()}
        (folder / "probe.json").write_text(json.dumps(names, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Probe:
        """Reads what :meth:`save` wrote."""
        tensors = load_file(folder / FILE)
        return cls(tensors.pop("mean"), tensors.pop("scale"), tensors)


def with_one(features: Tensor) -> Tensor:
    """(B, D) -> (B, D + 1), the last column one."""
    return F.pad(features, (0, 1), value=1.0)


@torch.no_grad()
def vision_features(clip: VisionTextDualEncoderModel, pictures: Tensor, batch: int = 64) -> Tensor:
    """What the tower gives before the projection, float32 (B, D), of pictures in -1..1."""
    parts = []
    for part in pictures.split(batch):
        pooled = clip.vision_model(part.to(device_of(clip))).pooler_output
        parts.append(pooled.flatten(1).float().cpu())
    return torch.cat(parts)


def fit_probe(features: Tensor, labels: dict[str, Tensor], decay: float = 1e-3) -> Probe:
    """Logistic regression on features (B, D) with class numbers (B,) of each attribute.

    Args:
        features: Of the tower.
        labels: Has the keys of :data:`ATTRIBUTES`.
        decay: Weight of half the squared weights beside the mean cross-entropy.
    """
    mean, scale = features.mean(0), 1.0 / features.std(0).clamp_min(1e-4)
    inputs = with_one((features - mean) * scale)
    maps = {
        name: regression(inputs, labels[name], len(classes), decay)
        for name, classes in ATTRIBUTES.items()
    }
    return Probe(mean, scale, maps)


@torch.enable_grad()
def regression(inputs: Tensor, target: Tensor, classes: int, decay: float) -> Tensor:
    """Weights (classes, D) of a logistic regression; the last column is not decayed."""
    weights = torch.zeros(classes, inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        penalty = 0.5 * decay * weights[:, :-1].square().sum()
        value = F.cross_entropy(inputs @ weights.T, target) + penalty
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def train_probe(
    clip: VisionTextDualEncoderModel,
    vae: AutoencoderKL,
    world: RenderedWorld,
    count: int = 6000,
    seed: int = 0,
) -> Probe:
    """Fits the probe on renders of a set, half of them as the autoencoder decodes them.

    Args:
        clip: The judge.
        vae: Decodes, since the probe shall judge decoded pictures.
        world: Training renders.
        count: How many, at most all.
        seed: Of the choice.
    """
    clip = clip.eval()
    indices = np.random.default_rng(seed).permutation(len(world))[:count]
    parts = []
    for number, some in enumerate(np.array_split(indices, max(2, len(indices) // 64))):
        pictures = pictures_of(world, some)
        if number % 2:
            pictures = reconstruct(vae, pictures)
        parts.append(vision_features(clip, pictures))
        if number % 20 == 0:
            logger.info("probe: looked at %d of %d", sum(map(len, parts)), len(indices))
    return fit_probe(torch.cat(parts), labels_of([world.scenes[i] for i in indices]))


def told(probe: Probe, clip: VisionTextDualEncoderModel, pictures: Tensor) -> dict[str, Tensor]:
    """Class numbers (B,) of each attribute that the probe tells of pictures in -1..1."""
    logits = probe.logits(vision_features(clip, pictures))
    return {name: value.argmax(-1) for name, value in logits.items()}
