"""Drawing with an exported folder: its settings, and pictures of texts."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from framework.toyworld.pretrain.devices import mixed_precision

logger = logging.getLogger(__name__)


@dataclass
class EvaluateConfig:
    """Options of the evaluation.

    Attributes:
        count: Prompts of the text-to-image part; 0 leaves it out.
        distance: Pictures of the distance to renders, drawn by held-out captions; 0 leaves it out.
        concepts: Held-out concepts learned by Textual Inversion; 0 leaves it out.
        guidance: Guidance scale; the folder's own if negative.
        steps: Denoising steps; the folder's own if 0.
        seed: Of prompts and noise.
        before: Another exported folder, measured on the same by the same judge; empty for none.
        judge: Exported folder whose CLIP, probe and identity encoder judge; empty: the target's.
        threads: Torch threads.
    """

    count: int = 512
    distance: int = 0
    concepts: int = 0
    guidance: float = -1.0
    steps: int = 0
    seed: int = 0
    before: str = ""
    judge: str = ""
    threads: int = 1


def settings_of(folder: Path, config: EvaluateConfig) -> tuple[float, int]:
    """Guidance scale and steps to draw with.

    Raises:
        FileNotFoundError: It is no exported folder.
    """
    if not (folder / "world.json").is_file():
        raise FileNotFoundError(
            f"'{folder}' has no world.json; expected what `world pretrain export` writes."
        )
    own = json.loads((folder / "world.json").read_text())
    guidance = own["guidance_scale"] if config.guidance < 0 else config.guidance
    return guidance, config.steps or own["num_inference_steps"]


def generate(
    pipeline: StableDiffusionPipeline,
    texts: list[str],
    guidance: float,
    steps: int = 25,
    batch: int = 32,
    seed: int = 0,
) -> Tensor:
    """Pictures (N, 3, H, W) in -1..1 of texts."""
    generator, parts = torch.Generator().manual_seed(seed), []
    pipeline.set_progress_bar_config(disable=True)
    start = time.monotonic()
    for first in range(0, len(texts), batch):
        with mixed_precision(pipeline.device):
            images = pipeline(
                texts[first : first + batch],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generator,
                output_type="np",
            ).images
        parts.append(torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2.0 - 1.0)
        done = first + len(parts[-1])
        left = (time.monotonic() - start) / done * (len(texts) - done) / 60.0
        logger.info("generated %d of %d, %.1f minutes left", done, len(texts), left)
    return torch.cat(parts) if parts else torch.empty(0, 3, 128, 128)
