"""The identity encoder: a timm vision transformer that tells objects of one category apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain.data import brighten, masks_of, pictures_of, shift
from framework.toyworld.pretrain.devices import device_of
from framework.toyworld.pretrain.stage import Batch, Stage, StageConfig
from framework.toyworld.pretrain.vision_init import prepare_vision

ARCHITECTURE = "vit_tiny_patch16_224"


@dataclass
class IdentityConfig(StageConfig):
    """Options of the identity encoder's training; a batch has twice ``batch_size`` pictures.

    Attributes:
        width: Of the transformer.
        layers: Of the transformer.
        mixed: Fraction of the batches whose objects are of any category.
        temperature: Of the contrastive loss.
        patches: Weight of the loss on the mean patch feature of the object's pixels, which makes
            dense descriptors of the patches.
        shift: Largest random shift, pixels.
        brightness: Strength of random gain and offset.
    """

    minutes: float = 12.0
    batch_size: int = 32
    lr: float = 6e-4
    weight_decay: float = 0.05
    ema: float = 0.998
    width: int = 192
    layers: int = 6
    mixed: float = 0.25
    temperature: float = 0.08
    patches: float = 0.5
    shift: int = 8
    brightness: float = 0.1


def model_args(config: IdentityConfig, size: int = 128) -> dict[str, Any]:
    """Arguments of ``timm.create_model`` for :data:`ARCHITECTURE`."""
    return {
        "img_size": size,
        "embed_dim": config.width,
        "depth": config.layers,
        "num_heads": max(1, config.width // 64),
        "pre_norm": True,
        "num_classes": 0,
    }


def build_identity(config: IdentityConfig, world: RenderedWorld | None = None) -> nn.Module:
    """A vision transformer; its embedding is the class token.

    Args:
        config: Options.
        world: Where samples of patches come from for a start that learns faster, see
            :mod:`framework.toyworld.pretrain.vision_init`; without it the weights are random.
    """
    size = world.images.shape[1] if world is not None else 128
    model = timm.create_model(ARCHITECTURE, pretrained=False, **model_args(config, size))
    if world is not None:
        model.load_state_dict(from_transformers(prepared_tower(config, world).state_dict()))
    return model


def prepared_tower(config: IdentityConfig, world: RenderedWorld) -> CLIPVisionModel:
    """A vision tower of the encoder's shape, fresh but for its start."""
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            image_size=world.images.shape[1],
            patch_size=16,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=max(1, config.width // 64),
            hidden_act="gelu",
        )
    )
    prepare_vision(tower, world)
    return tower


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a transformers vision tower under timm's names."""
    state = {name.removeprefix("vision_model."): value for name, value in state.items()}
    out = {
        "cls_token": state["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"],
    }
    renamed = {
        "pre_layrnorm": "norm_pre",
        "post_layernorm": "norm",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "encoder.layers": "blocks",
    }
    for name, value in state.items():
        if name.startswith("embeddings.") or ".k_proj" in name or ".v_proj" in name:
            continue
        if ".q_proj" in name:
            parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            name, value = name.replace("self_attn.q_proj", "attn.qkv"), torch.cat(parts)
        for old, new in renamed.items():
            name = name.replace(old, new)
        out[name] = value
    return out


def view_batches(world: RenderedWorld, config: IdentityConfig, patch: int = 16) -> Any:
    """Batches ``{"pictures": (2 B, 3, H, W), "masks": (2 B, patches)}``.

    Row ``i`` and row ``B + i`` are two views of one object.
    """
    views: dict[int, list[int]] = {}
    groups: dict[str, list[int]] = {}
    for index, owner in enumerate(world.object_ids.tolist()):
        if owner not in views:
            groups.setdefault(world.scenes[index].object.category, []).append(owner)
        views.setdefault(owner, []).append(index)
    everything = list(views)
    names = [name for name, owners in groups.items() if len(owners) > 1] or list(groups)

    def draw(rng: np.random.Generator) -> Batch:
        mixed = rng.random() < config.mixed
        owners = everything if mixed else groups[names[rng.integers(len(names))]]
        count = min(config.batch_size, len(owners))
        chosen = rng.choice(len(owners), count, replace=False)
        pairs = [rng.choice(views[owners[i]], 2, replace=False) for i in chosen]
        indices = np.array(pairs).T.reshape(-1)
        pictures = shift(pictures_of(world, indices), config.shift, rng)
        side = world.images.shape[1] // patch
        return {
            "pictures": brighten(pictures, config.brightness, rng),
            "masks": masks_of(world, indices, side).flatten(1),
        }

    return draw


class IdentityStage(Stage):
    """Training of the identity encoder.

    Args:
        model: The transformer.
        config: Options.
        world: Training renders.
        validation: Held-out renders to tell apart now and then.
    """

    def __init__(
        self,
        model: nn.Module,
        config: IdentityConfig,
        world: RenderedWorld,
        validation: RenderedWorld | None = None,
    ) -> None:
        super().__init__(model, config, view_batches(world, config))
        self.validation = validation

    def is_outer(self, name: str) -> bool:
        """The patches' filters and what is added to tokens."""
        return name in ("cls_token", "pos_embed") or name.startswith("patch_embed")

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive over views, of the class token and of the object's patches."""
        c = self.config
        tokens = self.network.forward_features(batch["pictures"]).float()
        token, right = view_contrast(tokens[:, 0], c.temperature)
        weights = batch["masks"] + 1e-4
        weights = (weights / weights.sum(1, keepdim=True))[..., None]
        patches, _ = view_contrast((weights * tokens[:, 1:]).sum(1), c.temperature)
        return token + c.patches * patches, {"token": token, "patches": patches, "right": right}

    def sheet(self) -> dict[str, Any]:
        """Retrieval among 12 objects of one category, of held-out renders."""
        if self.validation is None:
            return {}
        world = self.validation
        indices = np.arange(min(len(world), 512))
        features = embed(self.average, pictures_of(world, indices))
        names = np.array([world.scenes[i].object.category for i in indices])
        return {"val_retrieval": retrieval(features, world.object_ids[indices], names)}


def view_contrast(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Contrastive loss of two views each, and the share of views that find their partner.

    Args:
        features: (2 B, D); row ``i`` and row ``B + i`` belong together.
        temperature: Divides the cosines.
    """
    features = F.normalize(features, dim=-1)
    count = len(features)
    logits = features @ features.T / temperature
    logits = logits.masked_fill(torch.eye(count, dtype=torch.bool, device=logits.device), -1e4)
    target = torch.arange(count, device=logits.device).roll(count // 2)
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


@torch.no_grad()
def embed(model: nn.Module, pictures: Tensor, batch: int = 64) -> Tensor:
    """Normalised embeddings, float32 (N, D), of pictures in -1..1."""
    parts = []
    for part in pictures.split(batch):
        features = model(part.to(device_of(model)))
        parts.append(F.normalize(features.float(), dim=-1).cpu())
    return torch.cat(parts)


def retrieved(
    features: Tensor, owners: np.ndarray, categories: np.ndarray, among: int = 12, seed: int = 0
) -> tuple[list[bool], list[int]]:
    """Whether of ``among`` candidates the nearest to a picture shows the same object.

    The candidates are one other view of the object and one view each of up to ``among - 1`` other
    objects, of the same category where ``categories`` says so.

    Args:
        features: Normalised embeddings, (N, D).
        owners: Object of each picture, (N,).
        categories: Group within which candidates are drawn, (N,).
        among: Number of candidates.
        seed: Of the candidates.

    Returns:
        The answers, and the numbers of the pictures they are about: those with candidates.
    """
    rng = np.random.default_rng(seed)
    right, asked = [], []
    for query in range(len(features)):
        partners = np.flatnonzero((owners == owners[query]) & (np.arange(len(owners)) != query))
        others = np.flatnonzero((owners != owners[query]) & (categories == categories[query]))
        others = rng.permutation(others)
        _, first = np.unique(owners[others], return_index=True)
        others = others[first]
        if not len(partners) or not len(others):
            continue
        rivals = rng.permutation(others)[: among - 1]
        candidates = np.concatenate([[rng.choice(partners)], rivals])
        right.append(int((features[candidates] @ features[query]).argmax()) == 0)
        asked.append(query)
    return right, asked


def retrieval(
    features: Tensor, owners: np.ndarray, categories: np.ndarray, among: int = 12, seed: int = 0
) -> float:
    """Share of right answers of :func:`retrieved` for features (N, D)."""
    right, _ = retrieved(features, owners, categories, among, seed)
    return float(np.mean(right)) if right else 0.0
