"""What each stage trains from and leaves behind, in a working folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from framework.toyworld.captions import VOCABULARY
from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import clip, clip_stage, identity, models, probe, text, unet, vae
from framework.toyworld.pretrain.latents import cache_latents
from framework.toyworld.pretrain.models import write_folder
from framework.toyworld.pretrain.stage import StageConfig, averaged_weights, fit
from framework.toyworld.pretrain.tokenizer import build_tokenizer


def _worlds(data: Path) -> tuple[RenderedWorld, RenderedWorld | None]:
    """Training and, where there is one, held-out renders."""
    held_out = data / "val"
    return RenderedWorld(data / "train"), RenderedWorld(held_out) if held_out.exists() else None


def train_vae(config: vae.VAEConfig, data: Path, work: Path) -> None:
    """Trains the autoencoder, or goes on with its decoder; leaves ``models/vae``."""
    world, held_out = _worlds(data)
    folder = work / ("vae_decoder" if config.decoder_only else "vae")
    network = models.load_vae(work) if config.decoder_only else vae.build_vae(config.channels)
    if config.init:
        network = models.load_vae_folder(Path(config.init))
    stage = fit(vae.VAEStage(network, config, world, held_out, folder), folder)
    if stage.global_rank == 0:
        models.publish_vae(work, stage.average, None if config.decoder_only else world)


def train_text(config: text.TextConfig, data: Path, work: Path) -> None:
    """Trains CLIP's text tower on the scenes; leaves ``tokenizer`` and ``clip``."""
    world, _ = _worlds(data)
    tokenizer = build_tokenizer(VOCABULARY)
    network = clip.build_clip(
        tokenizer,
        world.images.shape[1],
        config.tower,
        config.layers,
        config.projection,
        config.channels,
    )
    stage = fit(text.TextStage(network, tokenizer, config, world), work / "text")
    if stage.global_rank == 0:
        write_folder(work / "models" / "tokenizer", tokenizer.save_pretrained)
        write_folder(work / "models" / "clip", stage.average.save_pretrained)


def train_clip(config: clip_stage.CLIPStageConfig, data: Path, work: Path) -> None:
    """Trains CLIP's vision tower beside the frozen text tower; leaves ``clip``."""
    world, held_out = _worlds(data)
    folder = work / "clip"
    tokenizer, network = models.load_tokenizer(work), models.load_clip(work)
    if config.fresh and not (folder / "last.ckpt").exists():
        network = clip.with_new_vision(network, config.channels)
    decoded = None
    if config.decoded and (work / "models" / "vae").exists():
        decoded = clip_stage.decode_some(
            models.load_vae(work), world, config.decoded, folder / "decoded.npz", config.seed
        )
    network = network.train().to(memory_format=torch.channels_last)
    stage = clip_stage.CLIPStage(network, tokenizer, config, world, held_out, decoded)
    fit(stage, folder)
    if stage.global_rank == 0:
        write_folder(work / "models" / "clip", stage.average.save_pretrained)


def train_identity(config: identity.IdentityConfig, data: Path, work: Path) -> None:
    """Trains the identity encoder; leaves ``models/identity``."""
    world, held_out = _worlds(data)
    network = identity.build_identity(config, world).train()
    args = identity.model_args(config, world.images.shape[1])
    models.note(work / "identity", args)
    stage = fit(identity.IdentityStage(network, config, world, held_out), work / "identity")
    if stage.global_rank == 0:
        models.publish_identity(work, work / "identity" / "last.ckpt")


def train_probe(data: Path, work: Path) -> None:
    """Fits the probe on what CLIP's vision tower sees; leaves ``models/probe``."""
    world, _ = _worlds(data)
    found = probe.train_probe(models.load_clip(work), models.load_vae(work), world)
    write_folder(work / "models" / "probe", found.save)


def cache(data: Path, work: Path, size: int, part: str = "train") -> Path:
    """Encodes a set (``train`` or ``val``) at a size in pixels with ``models/vae``."""
    path = work / "latents" / f"{part}_{size}.npy"
    return cache_latents(models.load_vae(work), RenderedWorld(data / part), path, size)


def train_unet(config: unet.UNetConfig, data: Path, work: Path) -> None:
    """Trains the U-Net at a size, from the smaller size's if there is one; ``models/unet``."""
    world, held_out = _worlds(data)
    latents = np.load(cache(data, work, config.size), mmap_mode="r")
    folder, smaller = work / f"unet_{config.size}", work / f"unet_{config.size // 2}" / "last.ckpt"
    tokenizer, encoder = models.load_tokenizer(work), models.text_encoder_of(models.load_clip(work))
    network = unet.build_unet(config.channels, encoder.config.hidden_size)
    if config.init:
        network = models.load_unet(Path(config.init))
    elif smaller.exists():
        network.load_state_dict(averaged_weights(smaller))
    models.note(folder, dict(network.config))
    checked = None
    if held_out is not None:
        others = np.load(cache(data, work, config.size, "val"), mmap_mode="r")
        every = dataclasses.replace(config, batch_size=256, dropped=0.0)
        draw = unet.latent_batches(held_out, others, tokenizer, every)
        checked = draw(np.random.default_rng(0))
    stage = unet.UNetStage(
        network.train(),
        config,
        unet.latent_batches(world, latents, tokenizer, config),
        tokenizer,
        encoder,
        models.load_vae(work),
        folder,
    )
    stage.held_out = checked
    fit(stage, folder)
    if stage.global_rank == 0:
        models.publish_unet(work, folder / "last.ckpt")


STAGES: dict[str, tuple[type[StageConfig], Callable[[Any, Path, Path], None]]] = {
    "vae": (vae.VAEConfig, train_vae),
    "text": (text.TextConfig, train_text),
    "clip": (clip_stage.CLIPStageConfig, train_clip),
    "identity": (identity.IdentityConfig, train_identity),
    "unet": (unet.UNetConfig, train_unet),
}
"""Stage -> options and what it runs."""


def run(name: str, options: dict[str, Any], data: Path, work: Path) -> None:
    """Runs a stage with options by name; from its last checkpoint, if there is one."""
    config_class, train = STAGES[name]
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config_class), options))
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    train(config, data, work)
