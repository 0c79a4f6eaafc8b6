"""Loading the encoders from local folders or by hub name."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessor

from framework.config.evaluation import EvaluationConfig
from framework.config.resources import resolve_path
from framework.errors import UserError, first_line
from framework.metrics.encoders import (
    IdentityEncoder,
    ImageEncoder,
    ImagesToVectors,
    TextEncoder,
    TextsToVectors,
    pooled,
)
from framework.metrics.preprocess import FILTERS, Preprocess

#: Files that weights are read from, the usual one first.
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
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
    clip_image, clip_text = clip_encoders(config, device)
    return Encoders(identity_encoder(config, device), clip_image, clip_text)


def clip_encoders(
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


def identity_encoder(
    config: EvaluationConfig, device: torch.device | str = "cpu"
) -> IdentityEncoder:
    """The identity encoder from ``evaluation.identity``: a timm or a transformers model.

    A local folder is transformers' if its ``config.json`` has a ``model_type``, else timm's; a name
    is timm's if timm knows it, or says ``hf-hub:``, else transformers'.

    Raises:
        UserError: the folder or name cannot be loaded.
    """
    folder = _local("evaluation.identity", config.identity)
    if _is_transformers(folder, config.identity):
        return _load_transformers(folder, config, device)
    name = f"local-dir:{folder}" if folder else config.identity
    sized: dict[str, Any] = {}
    if config.identity_size is not None:
        sized["img_size"] = config.identity_size
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **sized).float()
    except Exception as error:
        raise _unusable("evaluation.identity", config.identity, error) from error
    own = resolve_data_config({}, model=model)
    preprocess = _identity_preprocess(
        config,
        own["input_size"][-1],
        (tuple(own["mean"]), tuple(own["std"])),
        own.get("crop_pct") or 1.0,
        own.get("interpolation", "bicubic"),
    )
    return IdentityEncoder(model, preprocess, device, config.batch_size)


class _Pooled(nn.Module):
    """A transformers vision model as pixels -> vectors: pooled, else the class token.

    Args:
        model: the model.
        resize: whether pictures are of another size than its positions were learned for.
    """

    def __init__(self, model: Any, resize: bool = False) -> None:
        super().__init__()
        self.model = model
        self.options = {"interpolate_pos_encoding": True} if resize else {}

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, size, size) -> (n, D)."""
        if hasattr(self.model, "get_image_features"):
            return pooled(self.model.get_image_features(pixel_values=pixels, **self.options))
        output = self.model(pixel_values=pixels, **self.options)
        vectors = getattr(output, "pooler_output", None)
        vectors = output.last_hidden_state[:, 0] if vectors is None else vectors
        return vectors.flatten(1)


def _load_transformers(
    folder: Path | None, config: EvaluationConfig, device: torch.device | str
) -> IdentityEncoder:
    source = str(folder or config.identity)
    try:
        model = AutoModel.from_pretrained(source).float()
        options = _processor_options(source)
    except Exception as error:
        raise _unusable("evaluation.identity", config.identity, error) from error
    vision = getattr(model.config, "vision_config", model.config)
    own = getattr(vision, "image_size", None) or 224
    own = own[-1] if isinstance(own, list | tuple) else int(own)
    mean, std = (tuple(options.get(f"image_{key}") or (0.5,) * 3) for key in ("mean", "std"))
    preprocess = _identity_preprocess(
        config, own, (mean, std), 1.0, PIL_FILTERS.get(int(options.get("resample") or 3), "bicubic")
    )
    wrapped = _Pooled(model, resize=preprocess.size != own)
    return IdentityEncoder(wrapped, preprocess, device, config.batch_size)


def _processor_options(source: str) -> dict[str, Any]:
    """What the model's ``preprocessor_config.json`` says; nothing without one."""
    try:
        return dict(CLIPImageProcessor.get_image_processor_dict(source)[0])
    except OSError:
        return {}


def _identity_preprocess(
    config: EvaluationConfig,
    size: int,
    colours: tuple[Any, Any],
    crop: float,
    how: str,
) -> Preprocess:
    half = config.identity_normalisation == "half"
    return Preprocess(
        size=config.identity_size or size,
        mean=(0.5, 0.5, 0.5) if half else colours[0],
        std=(0.5, 0.5, 0.5) if half else colours[1],
        crop=1.0 if config.identity_size else crop,
        filter=how,
        stretch=config.resize == "stretch",
        first=config.first_size,
    )


def _is_transformers(folder: Path | None, text: str) -> bool:
    if folder is not None:
        try:
            said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(said, dict) and "model_type" in said
    if text.startswith(("hf-hub:", "hf_hub:", "timm/")) or "/" not in text:
        return False
    return not timm.is_model(text)


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
    return UserError(
        f"{key} '{text}' cannot be loaded: {first_line(error)}. {_looked_for(text)} "
        "Give a folder or a hub name that is here."
    )


def _looked_for(text: str) -> str:
    """Which files a model is read from, and which of them are not there."""
    folder = resolve_path(text)
    if not folder.is_dir():
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        return f"Looked for config.json and model.safetensors of '{text}' on the hub and in {home}."
    weights = [name for name in WEIGHTS if (folder / name).is_file()]
    lacking = [] if (folder / "config.json").is_file() else [str(folder / "config.json")]
    lacking += [] if weights else [str(folder / WEIGHTS[0])]
    return f"Looked for {' and '.join(lacking)}, not found." if lacking else ""
