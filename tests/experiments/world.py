"""A tiny world on disk for ablations: a checkpoint, encoders, a library of two concepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny import tiny_sd
from tiny_encoders import save_clip, save_identity

from framework.concepts.folders import write_concept_file


def make_world(root: Path) -> Path:
    """Write it."""
    tiny_sd(sample_size=16).save_pretrained(root / "sd")
    save_clip(root / "clip")
    save_identity(root / "identity")
    rng = np.random.default_rng(0)
    for name, noun in (("blot", "mug"), ("smear", "duck")):
        folder = root / "library" / name
        folder.mkdir(parents=True)
        for index in range(2):
            array = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(array).resize((64, 64)).save(folder / f"{index}.png")
        write_concept_file(folder, noun)
    return root


def tiny_plan(world: Path, **changes: Any) -> dict[str, Any]:
    """A plan of two variants, two concepts, one prompt, two seeds: eight pictures."""
    plan: dict[str, Any] = {
        "name": "tiny",
        "config": {
            "model.path": str(world / "sd"),
            "model.dtype": "float32",
            "concept.library": str(world / "library"),
            "concept.placeholder": "",
            "evaluation.clip": str(world / "clip"),
            "evaluation.identity": str(world / "identity"),
            "sampler.num_inference_steps": 2,
            "sampler.batch_size": 2,
            "injector.start_step": 1,
            "mask.resolution": 4,
            "extractor.pca": 8,
        },
        "variants": {"plain": {"injector.name": "none"}, "ours": {}},
        "prompts": ["a photo of a {} on the grass"],
        "seeds": [0, 1],
        "run": {"devices": 1, "accelerator": "cpu", "matches": 4},
    }
    return plan | changes
