"""What tests of personalizers share: a concept, a pipeline's fingerprint, a quick drawing."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from framework.types import Concept


def make_concept(**changes):
    rng = np.random.default_rng(3)
    images = tuple(
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(3)
    )
    return replace(Concept("my-duck", "<my-duck>", "duck", images), **changes)


def fingerprint(pipe):
    """Everything training and loading must leave alone."""
    digest = hashlib.sha256()
    flags = []
    for name, part in sorted(pipe.components.items()):
        if isinstance(part, torch.nn.Module):
            for key, value in part.state_dict().items():
                digest.update(key.encode() + value.numpy().tobytes())
            flags.append((name, [p.requires_grad for p in part.parameters()]))
            flags.append((name, [m.training for m in part.modules()]))
            flags.append((name, part.config.get("vocab_size", None) if name == "vae" else 0))
    sizes = [len(pipe.tokenizer), pipe.text_encoder.config.vocab_size]
    kept = [id(pipe.tokenizer), id(pipe.text_encoder.get_input_embeddings())]
    return digest.hexdigest(), flags, sizes, kept, torch.get_rng_state().tolist()


def draw(pipe, prompt):
    generator = torch.Generator().manual_seed(0)
    result = pipe(prompt, num_inference_steps=2, generator=generator, output_type="np")
    return result.images
