"""Loading the encoders from local folders or by hub name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessor

from framework.errors import UserError
from framework.metrics.config import EvaluationConfig
from framework.metrics.encoders import (
    IdentityEncoder,
    ImageEncoder,
    ImagesToVectors,
    TextEncoder,
    TextsToVectors,
)
from framework.metrics.preprocess import FILTERS, Preprocess
from framework.resources import resolve_path

PIL_FILTERS = {int(value): name for name, value in FILTERS.items()}


@dataclass(frozen=True)
class Encoders:
    """The three encoders of the evaluation; see :mod:`framework.metrics.encoders`.

    Attributes:
        identity: pictures -> vectors that tell objects apart.
        clip_image: pictures -> vectors in CLIP's space.
        clip_text: texts -> vectors in the same space.
    """

    identity: ImagesToVectors
    clip_image: ImagesToVectors
    clip_text: TextsToVectors


def load_encoders(config: EvaluationConfig, device: torch.device | str = "cpu") -> Encoders:
    """Load all encoders that a configuration names.

    Raises:
        UserError: one of them cannot be loaded.
    """
    clip_image, clip_text = load_clip(config, device)
    return Encoders(load_identity(config, device), clip_image, clip_text)


def load_clip(
    config: EvaluationConfig, device: torch.device | str = "cpu"
) -> tuple[ImageEncoder, TextEncoder]:
    """CLIP's two towers from ``evaluation.clip``.

    Raises:
        UserError: the folder or name cannot be loaded.
    """
    folder = _local("evaluation.clip", config.clip)
    source = str(folder or config.clip)
    try:
        model = AutoModel.from_pretrained(source).float()
        if not hasattr(model, "get_image_features"):
            raise TypeError(
                f"it holds a {type(model).__name__}, not a model of pictures and texts."
            )
        tokenizer = AutoTokenizer.from_pretrained(source)
        options, _ = CLIPImageProcessor.get_image_processor_dict(source)
    except Exception as error:
        raise _unusable("evaluation.clip", config.clip, error) from error
    preprocess = Preprocess(
        size=model.config.vision_config.image_size,
        mean=tuple(options.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
        std=tuple(options.get("image_std", (0.26862954, 0.26130258, 0.27577711))),
        filter=PIL_FILTERS.get(int(options.get("resample") or 3), "bicubic"),
        stretch=config.resize == "stretch",
        first=config.first_size,
    )
    return (
        ImageEncoder(model, preprocess, device, config.batch_size),
        TextEncoder(model, tokenizer, device, config.batch_size),
    )


def load_identity(config: EvaluationConfig, device: torch.device | str = "cpu") -> IdentityEncoder:
    """The identity encoder from ``evaluation.identity``.

    Raises:
        UserError: the folder or name cannot be loaded.
    """
    folder = _local("evaluation.identity", config.identity)
    name = f"local-dir:{folder}" if folder else config.identity
    sized: dict[str, Any] = {}
    if config.identity_size is not None:
        sized["img_size"] = config.identity_size
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **sized).float()
    except Exception as error:
        raise _unusable("evaluation.identity", config.identity, error) from error
    own = resolve_data_config({}, model=model)
    half = config.identity_normalisation == "half"
    preprocess = Preprocess(
        size=config.identity_size or own["input_size"][-1],
        mean=(0.5, 0.5, 0.5) if half else tuple(own["mean"]),
        std=(0.5, 0.5, 0.5) if half else tuple(own["std"]),
        crop=1.0 if config.identity_size else own.get("crop_pct") or 1.0,
        filter=own.get("interpolation", "bicubic"),
        stretch=config.resize == "stretch",
        first=config.first_size,
    )
    return IdentityEncoder(model, preprocess, device, config.batch_size)


def _local(key: str, text: str) -> Path | None:
    """The folder, or None if the text is a hub name.

    Raises:
        UserError: the text can only be a folder, and there is none.
    """
    folder = resolve_path(text)
    if folder.is_dir():
        return folder
    if text.startswith((".", "/", "~", "package:")):
        raise UserError(f"{key} '{text}' does not exist; expected a model folder or a hub name.")
    return None


def _unusable(key: str, text: str, error: BaseException) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[0] if lines else type(error).__name__)[:300]
    return UserError(
        f"{key} '{text}' cannot be loaded: {reason} Give a folder or a hub name that is here."
    )
