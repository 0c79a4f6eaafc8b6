"""The shipped folder: a ``StableDiffusionPipeline`` with CLIP and identity encoder beside it."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPImageProcessor

from framework.toyworld.pretrain import models
from framework.toyworld.pretrain.probe import Probe
from framework.toyworld.pretrain.stage import averaged_weights
from framework.toyworld.pretrain.unet import build_scheduler

logger = logging.getLogger(__name__)

CUSTOM_CARD = {"guidance_scale": 4.0, "num_inference_steps": 25}
"""How the weights are meant to be sampled; stands in ``world.json``."""


def refresh(work: Path) -> None:
    """Publishes what the last checkpoints of unfinished trainings hold."""
    checkpoint = work / "vae_decoder" / "last.ckpt"
    if checkpoint.exists():
        vae = models.load_vae(work)
        vae.load_state_dict(averaged_weights(checkpoint))
        models.publish_vae(work, vae, None)
    checkpoint = work / "clip" / "last.ckpt"
    if checkpoint.exists():
        clip = models.load_clip(work)
        clip.load_state_dict(averaged_weights(checkpoint))
        models.write_folder(work / "models" / "clip", clip.save_pretrained)
    checkpoint = work / "identity" / "last.ckpt"
    if checkpoint.exists():
        models.publish_identity(work, checkpoint)
    newest = models.newest_unet(work)
    if newest is not None:
        models.publish_unet(work, newest)


def image_processor(size: int) -> CLIPImageProcessor:
    """Resizes to ``size`` and maps 0..255 to -1..1."""
    return CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def build_pipeline(work: Path) -> StableDiffusionPipeline:
    """The text-to-image pipeline of a working folder, float32."""
    return StableDiffusionPipeline(
        unet=models.load_unet(work / "models" / "unet"),
        vae=models.load_vae(work),
        text_encoder=models.text_encoder_of(models.load_clip(work)),
        tokenizer=models.load_tokenizer(work),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(work: Path, target: Path) -> Path:
    """Writes the shipped folder, float16 safetensors.

    Args:
        work: Working folder of the trainings.
        target: Folder to write; parts whose training has not begun are left out.

    Returns:
        The folder.
    """
    refresh(work)
    target.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(work)
    pipeline.to(dtype=torch.float16)
    for network in (pipeline.unet, pipeline.vae):  # where it was loaded from is nobody's business
        network.register_to_config(_name_or_path="")
    pipeline.save_pretrained(target, safe_serialization=True)
    clip = models.load_clip(work)

    def write_clip(folder: Path) -> None:
        copy.deepcopy(clip).half().save_pretrained(folder)
        image_processor(clip.config.vision_config.image_size).save_pretrained(folder)
        models.load_tokenizer(work).save_pretrained(folder)

    models.write_folder(target / "clip", write_clip)
    if (work / "models" / "probe").exists():
        models.write_folder(target / "probe", Probe.load(work / "models" / "probe").save)
    source = work / "models" / "identity"
    if source.exists():
        args = json.loads((source / "config.json").read_text())["model_args"] | {"num_classes": 0}
        model = models.load_identity(source).half()
        models.write_folder(
            target / "identity", lambda folder: models.write_identity(model, args, folder)
        )
    (target / "world.json").write_text(json.dumps(CUSTOM_CARD, indent=2) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    logger.info("%s: %.1f MB", target, size / 1e6)
    return target
