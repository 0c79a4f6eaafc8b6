"""Loading a diffusers pipeline by hub name or local folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from framework.backbones.choose import backbone_of, family_of
from framework.config.page import ModelConfig
from framework.config.resources import resolve_path
from framework.errors import UserError

logger = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """A device by name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = torch.backends.mps.is_available()
        return torch.device("mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"model.device is '{name}', which is not available here; use auto or cpu."
        ) from error
    return device


def load_pipeline(config: ModelConfig) -> Any:
    """Load a text-to-image pipeline with diffusers.

    Weights are read as safetensors, or from pickled files in torch's weights-only mode; no code of
    the checkpoint is executed.

    Raises:
        UserError: the folder is missing or is no pipeline, its family is not supported, a file is
            damaged, or the hub cannot be reached.
    """
    location = resolve_path(config.path)
    source = _existing(config.path, location)
    try:
        index = DiffusionPipeline.load_config(source)
    except Exception as error:
        raise UserError(
            f"model.path '{config.path}' cannot be loaded: it is no local folder, and the hub "
            f"gave: {_last_words(error)} Check the name, or give the path of a diffusers folder."
        ) from error
    family = family_of(index, config.path)
    arguments: dict[str, Any] = {"dtype": getattr(torch, config.dtype), "variant": config.variant}
    if "safety_checker" in index:
        arguments |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipe = family.load(source, **arguments)
    except Exception as error:
        raise UserError(
            f"The checkpoint '{config.path}' cannot be loaded: {_last_words(error)}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    pipe.to(pick_device(config.device))
    if config.channels_last:
        backbone_of(pipe).network.to(memory_format=torch.channels_last)
    return pipe


def _existing(text: str, location: Path) -> str:
    """A local folder that is a pipeline, or the text itself as a hub name."""
    if location.is_dir():
        if not (location / "model_index.json").is_file():
            raise UserError(
                f"{location} is no diffusers pipeline: it has no model_index.json. Give the folder "
                "that save_pretrained wrote, or a hub name."
            )
        return str(location)
    if location.exists():
        raise UserError(
            f"{location} is a file; expected a folder written by save_pretrained, or a hub name."
        )
    looks_local = text.startswith((".", "/", "~", "package:")) or text.count("/") > 1
    if looks_local:
        raise UserError(f"model.path '{text}' does not exist; expected a diffusers folder.")
    return text


def _last_words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
