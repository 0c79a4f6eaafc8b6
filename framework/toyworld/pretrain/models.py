"""The trained models of a working folder: what a stage leaves for the next ones.

``WORK/models/{tokenizer,vae,clip,identity,unet}`` hold averaged weights in float32, in the format
of their library. A stage writes its folder when it ends; :func:`publish` writes it at any time
from the last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, VisionTextDualEncoderModel

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain.identity import ARCHITECTURE
from framework.toyworld.pretrain.latents import measure_scale
from framework.toyworld.pretrain.stage import averaged_weights

logger = logging.getLogger(__name__)


def write_folder(folder: Path, write: Callable[[Path], object]) -> Path:
    """Has ``write`` fill a folder that takes its name only when complete."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        folder.replace(old)
        shutil.rmtree(old)
    partial.replace(folder)
    logger.info("wrote %s", folder)
    return folder


def present(folder: Path) -> Path:
    """The folder, if it is there; otherwise libraries would look for its name on a hub.

    Raises:
        FileNotFoundError: It is not.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"'{folder}' is not there; an earlier stage leaves it, or `dreammatcher world pretrain "
            "restore` takes it from the shipped weights."
        )
    return folder


def load_tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer of a working folder."""
    return CLIPTokenizer.from_pretrained(present(work / "models" / "tokenizer"))


def load_vae(work: Path) -> AutoencoderKL:
    """The autoencoder of a working folder."""
    return load_vae_folder(work / "models" / "vae")


def load_vae_folder(folder: Path) -> AutoencoderKL:
    """An autoencoder."""
    return AutoencoderKL.from_pretrained(present(folder)).to(memory_format=torch.channels_last)


def load_clip(work: Path) -> VisionTextDualEncoderModel:
    """The CLIP of a working folder."""
    return VisionTextDualEncoderModel.from_pretrained(present(work / "models" / "clip"))


def load_unet(folder: Path) -> UNet2DConditionModel:
    """A U-Net."""
    unet = UNet2DConditionModel.from_pretrained(present(folder))
    return unet.to(memory_format=torch.channels_last)


def load_identity(folder: Path) -> nn.Module:
    """An identity encoder."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def text_encoder_of(clip: VisionTextDualEncoderModel) -> CLIPTextModel:
    """The text tower of a CLIP as a model of its own."""
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder.eval()


def publish_vae(work: Path, vae: AutoencoderKL, world: RenderedWorld | None) -> Path:
    """Writes the autoencoder; with ``world`` its scaling factor is measured first."""
    if world is not None:
        vae.register_to_config(scaling_factor=1.0)
        vae.register_to_config(scaling_factor=round(measure_scale(vae, world), 5))
    return write_folder(work / "models" / "vae", vae.save_pretrained)


def write_identity(model: nn.Module, args: dict[str, Any], folder: Path) -> None:
    """Writes an identity encoder for ``timm.create_model("local-dir:FOLDER")``.

    Args:
        model: The transformer.
        args: What :func:`timm.create_model` was given to build it.
        folder: Where to; must exist.
    """
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    size = args["img_size"]
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": model.num_features,
        "global_pool": "token",
        "model_args": {name: value for name, value in args.items() if name != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def newest_unet(work: Path) -> Path | None:
    """Checkpoint of the latest phase of the U-Net, the largest size first."""
    for size in (128, 64):
        path = work / f"unet_{size}" / "last.ckpt"
        if path.exists():
            return path
    return None


def note(folder: Path, settings: dict[str, Any]) -> None:
    """Keeps beside a checkpoint what its network is built from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.json").write_text(json.dumps(settings, default=str) + "\n")


def publish_unet(work: Path, checkpoint: Path) -> Path:
    """Writes the averaged U-Net of a checkpoint."""
    settings = json.loads((checkpoint.parent / "network.json").read_text())
    unet = UNet2DConditionModel.from_config(settings)
    unet.load_state_dict(averaged_weights(checkpoint))
    unet.register_to_config(sample_size=32)
    return write_folder(work / "models" / "unet", unet.save_pretrained)


def publish_identity(work: Path, checkpoint: Path) -> Path:
    """Writes the averaged identity encoder of a checkpoint."""
    args = json.loads((checkpoint.parent / "network.json").read_text())
    model = timm.create_model(ARCHITECTURE, pretrained=False, **args)
    model.load_state_dict(averaged_weights(checkpoint))
    return write_folder(
        work / "models" / "identity", lambda folder: write_identity(model, args, folder)
    )


def restore(work: Path, source: Path) -> None:
    """Fills ``WORK/models`` from an exported folder, so that stages can go on from it.

    Args:
        work: Working folder of the trainings.
        source: What :func:`framework.toyworld.pretrain.export.export` wrote.

    Raises:
        FileNotFoundError: A part of it is not there.
    """
    for name in ("tokenizer", "vae", "clip", "unet"):
        if not (source / name).is_dir():
            raise FileNotFoundError(
                f"'{source}' has no folder '{name}'; expected what `world pretrain export` writes."
            )
    parts = {
        "tokenizer": CLIPTokenizer.from_pretrained(source / "tokenizer"),
        "vae": AutoencoderKL.from_pretrained(source / "vae", torch_dtype=torch.float32),
        "clip": VisionTextDualEncoderModel.from_pretrained(source / "clip", dtype=torch.float32),
        "unet": UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=torch.float32),
    }
    for name, part in parts.items():
        write_folder(work / "models" / name, part.save_pretrained)
    if (source / "identity").exists():
        args = json.loads((source / "identity" / "config.json").read_text())["model_args"]
        encoder = load_identity(source / "identity").float()
        write_folder(
            work / "models" / "identity", lambda folder: write_identity(encoder, args, folder)
        )
