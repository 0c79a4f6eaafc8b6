"""What each stage trains from and leaves behind, in a working folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from framework.toyworld.captions import VOCABULARY
from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import clip, distil, identity, models, teacher, text, unet, vae
from framework.toyworld.pretrain.clip_stage import CLIPStage
from framework.toyworld.pretrain.latents import cache_latents
from framework.toyworld.pretrain.models import write_folder
from framework.toyworld.pretrain.stage import StageConfig, averaged_weights, fit
from framework.toyworld.pretrain.tokenizer import build_tokenizer
from framework.toyworld.pretrain.vision_init import prepare_vision


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
    network = clip.build_clip(tokenizer, clip.CLIPStageConfig(), world.images.shape[1])
    prepare_vision(network, world)
    stage = fit(text.TextStage(network, tokenizer, config, world), work / "text")
    if stage.global_rank == 0:
        write_folder(work / "models" / "tokenizer", tokenizer.save_pretrained)
        write_folder(work / "models" / "clip", stage.average.save_pretrained)


def train_teacher(config: teacher.TeacherConfig, data: Path, work: Path) -> None:
    """Trains the convolutional teacher of CLIP's vision tower; leaves its checkpoint."""
    world, held_out = _worlds(data)
    tokenizer, network = models.load_tokenizer(work), models.load_clip(work)
    student = teacher.Teacher(config.channels, network.config.projection_dim)
    stage = teacher.TeacherStage(student, network, tokenizer, config, world, held_out)
    fit(stage, work / "teacher")


def train_clip(config: clip.CLIPStageConfig, data: Path, work: Path) -> None:
    """Trains CLIP, or its vision tower alone, by a teacher if there is one.

    Leaves ``tokenizer`` and ``clip``.
    """
    world, held_out = _worlds(data)
    folder = work / ("clip_vision" if config.vision_only else "clip")
    taught = config.vision_only and (work / "teacher" / "last.ckpt").exists()
    if config.vision_only:
        tokenizer, network = models.load_tokenizer(work), models.load_clip(work).train()
        if config.fresh and not (folder / "last.ckpt").exists():
            start_vision(network, world)
    else:
        tokenizer = build_tokenizer(VOCABULARY)
        network = clip.build_clip(tokenizer, config, world.images.shape[1])
        prepare_vision(network, world)
    distillation = None
    if taught:
        guide = teacher.load_teacher(work / "teacher" / "last.ckpt")
        vision = network.config.vision_config
        distillation = distil.Distillation(guide, vision.hidden_size, vision.num_hidden_layers)
    stage = CLIPStage(network, tokenizer, config, world, held_out, distillation)
    fit(stage, folder)
    if stage.global_rank == 0:
        write_folder(work / "models" / "tokenizer", tokenizer.save_pretrained)
        write_folder(work / "models" / "clip", stage.average.save_pretrained)


def start_vision(network: clip.CLIPModel, world: RenderedWorld) -> None:
    """Gives a CLIP a vision tower that has seen nothing yet."""
    tower = type(network.vision_model)(network.config.vision_config)
    network.vision_model.load_state_dict(tower.state_dict())
    prepare_vision(network, world)


def train_identity(config: identity.IdentityConfig, data: Path, work: Path) -> None:
    """Trains the identity encoder from CLIP's vision tower; leaves ``models/identity``."""
    world, held_out = _worlds(data)
    network = identity.build_identity(config, models.load_clip(work)).train()
    args = identity.model_args(config, world.images.shape[1])
    models.note(work / "identity", args)
    stage = fit(identity.IdentityStage(network, config, world, held_out), work / "identity")
    if stage.global_rank == 0:
        models.publish_identity(work, work / "identity" / "last.ckpt")


def latents_path(work: Path, size: int) -> Path:
    """File of the training latents of pictures with a side of ``size`` pixels."""
    return work / "latents" / f"train_{size}.npy"


def cache(data: Path, work: Path, size: int) -> Path:
    """Encodes the training set with ``models/vae``."""
    world = RenderedWorld(data / "train")
    return cache_latents(models.load_vae(work), world, latents_path(work, size), size)


def train_unet(config: unet.UNetConfig, data: Path, work: Path) -> None:
    """Trains the U-Net at a size, from the smaller size's if there is one; ``models/unet``."""
    latents = np.load(cache(data, work, config.size), mmap_mode="r")
    world = RenderedWorld(data / "train")
    folder, smaller = work / f"unet_{config.size}", work / f"unet_{config.size // 2}" / "last.ckpt"
    tokenizer, encoder = models.load_tokenizer(work), models.text_encoder_of(models.load_clip(work))
    network = unet.build_unet(config.channels, encoder.config.hidden_size)
    if config.init:
        network = models.load_unet(Path(config.init))
    elif smaller.exists():
        network.load_state_dict(averaged_weights(smaller))
    models.note(folder, dict(network.config))
    stage = unet.UNetStage(
        network.train(),
        config,
        unet.latent_batches(world, latents, tokenizer, config),
        tokenizer,
        encoder,
        models.load_vae(work),
        folder,
    )
    fit(stage, folder)
    if stage.global_rank == 0:
        models.publish_unet(work, folder / "last.ckpt")


STAGES: dict[str, tuple[type[StageConfig], Callable[[Any, Path, Path], None]]] = {
    "vae": (vae.VAEConfig, train_vae),
    "text": (text.TextConfig, train_text),
    "teacher": (teacher.TeacherConfig, train_teacher),
    "clip": (clip.CLIPStageConfig, train_clip),
    "identity": (identity.IdentityConfig, train_identity),
    "unet": (unet.UNetConfig, train_unet),
}
"""Stage -> options and what it runs."""
