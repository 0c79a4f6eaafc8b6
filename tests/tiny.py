"""Tiny random checkpoints of the real classes and the real block structure, built on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from framework.config.sampler import SamplerConfig
from framework.extractors.diffusion import DiffusionFeatures
from framework.guidance.none import NoGuidance
from framework.injectors.functional import attention
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs
from framework.masks.cross_attention import CrossAttentionMask
from framework.sampling.cache import Cache
from framework.sampling.plan import Parts
from framework.sampling.sampler import Sampler
from framework.trajectories.ddim_inversion import DDIMInversion
from framework.types import Concept
from matchers.cycle_argmax import CycleArgmax

WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "dog",
    "duck",
    "cat",
    "mug",
    "in",
    "on",
    "snow",
    "grass",
    "jungle",
    "red",
    "wearing",
    "hat",
    "toy",
]


def tiny_tokenizer() -> CLIPTokenizer:
    """A 77-token CLIP tokenizer: single characters, their word-final forms and some whole words."""
    characters = [chr(code) for code in range(33, 127)]
    vocab = {token: i for i, token in enumerate([*characters, *(c + "</w>" for c in characters)])}
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            vocab.setdefault("".join(pair), len(vocab))
            pieces = ["".join(pair), *pieces[2:]]
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def tiny_text_config(tokenizer: CLIPTokenizer, width: int, projection: int = 32) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def _scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def tiny_sd(seed: int = 0, sample_size: int = 32, version: int = 1) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x or 2.x: four blocks, 16 transformer blocks, 77 tokens, random weights.

    With ``sample_size`` 32 the four attention grids are 32, 16, 8 and 4, so the grid that is
    16 x 16 in the real model is 8 x 8 here (``mask.resolution=8``); 64 gives the real grids.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    two = version == 2
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=32,
        attention_head_dim=(2, 4, 4, 4) if two else 8,
        use_linear_projection=two,
        upcast_attention=two,
        norm_num_groups=8,
    ).eval()
    return StableDiffusionPipeline(
        vae=tiny_vae().eval(),
        text_encoder=CLIPTextModel(tiny_text_config(tokenizer, 32)).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler("v_prediction" if two else "epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_sdxl(seed: int = 0, sample_size: int = 32) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: two text encoders, micro-conditioning, 70 self-attention layers."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        norm_num_groups=8,
    ).eval()
    return StableDiffusionXLPipeline(
        vae=tiny_vae().eval(),
        text_encoder=CLIPTextModel(tiny_text_config(tokenizer, 32)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(tiny_text_config(tokenizer, 32)).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=_scheduler(),
    )


def tiny_concept(placeholder: str = "toy", class_name: str = "dog") -> Concept:
    """A concept whose only picture is smooth, coloured and not square."""
    rows, columns = np.mgrid[0:96, 0:128] / 32.0
    channels = [np.sin(columns + 1), np.cos(rows * 2), np.sin(rows * columns)]
    picture = np.stack([np.uint8(127.5 + 127 * channel) for channel in channels], axis=-1)
    return Concept("toy-dog", placeholder, class_name, (Image.fromarray(picture),))


def tiny_parts(pipe: DiffusionPipeline, injector: str | None = None, **parts: Any) -> Parts:
    """The paper's parts with layers and sizes that suit a tiny checkpoint, from step 1 on.

    Args:
        pipe: a tiny pipeline.
        injector: a registered name, or an object.
        parts: other parts in place of the defaults, by their names in :class:`Parts`.
    """
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    layers = [r"up_blocks\.[01]\..*attn1" if xl else r"up_blocks\.[123]\..*attn1"]
    blocks = [r"up_blocks\.[01]" if xl else r"up_blocks\.[12]"]
    injector = "appearance_matching" if injector is None else injector
    if isinstance(injector, str):
        injector = INJECTORS.get(injector)(layers=layers, start_step=1)
    defaults = {
        "trajectory": DDIMInversion(),
        "extractor": DiffusionFeatures(blocks=blocks, pca=32),
        "mask": CrossAttentionMask(resolution=pipe.unet.config.sample_size // 4),
        "matcher": CycleArgmax(),
        "injector": injector,
        "guidance": NoGuidance(),
    }
    return Parts(**(defaults | parts))


def attention_inputs(tensors: Sequence[torch.Tensor], grid: tuple[int, int]) -> AttentionInputs:
    """Inputs of an injector.

    Args:
        tensors: query, key and value of the targets, then of the reference, (B, heads, H * W, d).
        grid: (H, W).
    """
    names = ("query", "key", "value")
    reference = dict(zip(names, tensors[3:], strict=True))
    reference["output"] = attention(*tensors[3:])
    return AttentionInputs(*tensors[:3], reference, grid=grid)


def tiny_sampler(
    pipe: DiffusionPipeline,
    concept: Concept | None = None,
    options: Any = None,
    cache: Cache | None = None,
    **parts: Any,
) -> Sampler:
    """A sampler of 3 steps with :func:`tiny_parts`; ``options`` are those of SamplerConfig."""
    config = SamplerConfig(**({"num_inference_steps": 3} | (options or {})))
    return Sampler(pipe, concept or tiny_concept(), tiny_parts(pipe, **parts), config, cache)
