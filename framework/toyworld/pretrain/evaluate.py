"""The quality table of an exported folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from transformers import VisionTextDualEncoderModel

from framework.toyworld.captions import PLACE_PHRASES
from framework.toyworld.concepts import CONCEPTS
from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import identity, models, vae
from framework.toyworld.pretrain.clip import zero_shot
from framework.toyworld.pretrain.data import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
    as_pictures,
    labels_of,
    pictures_of,
)
from framework.toyworld.pretrain.devices import mixed_precision
from framework.toyworld.pretrain.prompts import with_article
from framework.toyworld.pretrain.sheets import save_grid
from framework.toyworld.render import render
from framework.toyworld.scene import PLACES, sample_scene

logger = logging.getLogger(__name__)


def random_prompts(count: int, seed: int = 0) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Prompts ``a photo of a COLOUR CATEGORY, PLACE`` and their class numbers."""
    rng = np.random.default_rng(seed)
    names = (CATEGORY_NAMES, PLACES, COLOUR_NAMES)
    draws = {
        label: rng.integers(len(values), size=count)
        for label, values in zip(("category", "place", "colour"), names, strict=True)
    }
    texts = [
        f"a photo of {with_article(f'{COLOUR_NAMES[c]} {CATEGORY_NAMES[k]}')}, "
        f"{PLACE_PHRASES[PLACES[p]]}"
        for k, p, c in zip(*draws.values(), strict=True)
    ]
    return texts, {label: torch.from_numpy(values) for label, values in draws.items()}


def generate(
    pipeline: StableDiffusionPipeline,
    texts: list[str],
    guidance: float,
    steps: int = 25,
    batch: int = 32,
    seed: int = 0,
) -> torch.Tensor:
    """Pictures (N, 3, H, W) in -1..1 of texts."""
    generator, parts = torch.Generator().manual_seed(seed), []
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(texts), batch):
        with mixed_precision(pipeline.device):
            images = pipeline(
                texts[start : start + batch],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generator,
                output_type="np",
            ).images
        parts.append(torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2.0 - 1.0)
        logger.info("generated %d of %d", start + len(parts[-1]), len(texts))
    return torch.cat(parts)


def concept_views(views: int = 4, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Renders of the held-out concepts, each view in another place.

    Returns:
        Pictures (N, 3, 128, 128) in -1..1 and the number of each one's concept, (N,).
    """
    images, owners = [], []
    for number, spec in enumerate(CONCEPTS.values()):
        rng = np.random.default_rng([seed, number])
        for place in rng.permutation(PLACES)[:views]:
            scene = sample_scene(rng, spec, place=str(place), condition=None)
            images.append(render(scene, 128).rgb)
            owners.append(number)
    return as_pictures(np.stack(images)), np.array(owners)


@torch.no_grad()
def evaluate(
    folder: Path,
    validation: RenderedWorld,
    count: int = 256,
    guidance: float | None = None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Measures an exported folder.

    Args:
        folder: The exported folder.
        validation: Held-out renders.
        count: Random prompts of the text-to-image part; 0 to leave it out.
        guidance: Guidance scale; the folder's own if None.
        sheet: PNG to write 64 of the generated pictures to.

    Returns:
        The figures, by part.
    """
    if not (folder / "world.json").is_file():
        raise FileNotFoundError(
            f"'{folder}' has no world.json; expected what `world pretrain export` writes."
        )
    settings = json.loads((folder / "world.json").read_text())
    guidance = settings["guidance_scale"] if guidance is None else guidance
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    clip = VisionTextDualEncoderModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    pictures = pictures_of(validation, np.arange(len(validation)))
    some = pictures[:: max(1, len(pictures) // 256)]
    half = torch.nn.functional.avg_pool2d(some, 2)
    table: dict[str, Any] = {
        "vae_psnr_db": vae.psnr(vae.reconstruct(pipeline.vae, some), some),
        "vae_psnr_half_db": vae.psnr(vae.reconstruct(pipeline.vae, half), half),
        "clip_zero_shot": zero_shot(
            clip, pipeline.tokenizer, pictures, labels_of(validation.scenes)
        ),
    }
    logger.info("%s", table)
    if (folder / "identity").exists():
        encoder = models.load_identity(folder / "identity").float()
        names = np.array([scene.object.category for scene in validation.scenes])
        owners = validation.object_ids
        features = identity.embed(encoder, pictures)
        shown, concepts = concept_views()
        everyone = np.zeros(len(concepts))
        table["identity_retrieval"] = {
            "concepts": identity.retrieval(identity.embed(encoder, shown), concepts, everyone),
            "same_category": identity.retrieval(features, owners, names),
        }
        logger.info("%s", table["identity_retrieval"])
    if count:
        texts, labels = random_prompts(count)
        images = generate(pipeline, texts, guidance, settings["num_inference_steps"])
        table["text_to_image"] = zero_shot(clip, pipeline.tokenizer, images, labels)
        table["text_to_image"] |= {"guidance": guidance, "prompts": count}
        if sheet is not None:
            save_grid(images[:64], sheet, 8)
    return table
