"""Loading a diffusers pipeline by hub name or local folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from transformers import PreTrainedTokenizerBase

from framework.backbones.choose import backbone_of, family_of
from framework.backbones.components import read_network
from framework.config.page import ModelConfig
from framework.config.resources import is_folder, is_there, resolve_path
from framework.errors import UserError, first_line
from framework.interfaces import Backbone
from framework.runs.atomic import read_json

logger = logging.getLogger(__name__)

#: Names that must be networks; others are networks where their class is one.
_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_LIBRARIES = ("diffusers", "transformers")
#: Parts of a pipeline that draw nothing.
_UNNEEDED = ("feature_extractor", "image_encoder", "safety_checker")


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
    the checkpoint is executed. Parts that draw nothing (safety checker, picture encoders) may be
    missing; what draws is complete and finite.

    Raises:
        UserError: the folder is missing or is no pipeline, its family is not supported, a file is
            missing or damaged, or the hub cannot be reached.
    """
    location = resolve_path(config.path)
    source = _existing(config.path, location)
    index = _index(config.path, source)
    family = family_of(index, config.path)
    arguments: dict[str, Any] = {"dtype": getattr(torch, config.dtype), "variant": config.variant}
    if "safety_checker" in index:
        arguments |= {"safety_checker": None, "requires_safety_checker": False}
    folder = _local(config, source, arguments)
    arguments |= {
        name: None for name in _UNNEEDED if name in index and not (folder / name).is_dir()
    }
    arguments |= _networks(config, folder, index, _libraries(family))
    try:
        pipe = family.load(str(folder), **arguments)
    except Exception as error:
        raise UserError(
            f"The checkpoint '{config.path}' cannot be loaded: {first_line(error)}."
        ) from error
    _check_parts(config.path, folder, pipe)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(pick_device(config.device))
    if config.channels_last:
        backbone_of(pipe).network.to(memory_format=torch.channels_last)
    return pipe


def _index(text: str, source: str) -> dict[str, Any]:
    """What ``model_index.json`` says."""
    try:
        index = DiffusionPipeline.load_config(source)
    except Exception as error:
        if Path(source).is_dir():
            raise UserError(
                f"model_index.json in '{text}' cannot be read: {first_line(error)}. Give an intact "
                "copy of the folder."
            ) from error
        raise UserError(
            f"model.path '{text}' cannot be loaded: it is no local folder, and the hub "
            f"gave: {first_line(error)}. Check the name, or give the path of a diffusers folder."
        ) from error
    if not isinstance(index, dict):
        raise UserError(
            f"model_index.json in '{text}' is a {type(index).__name__}; expected a mapping. Give "
            "an intact copy of the folder."
        )
    return index


def _local(config: ModelConfig, source: str, arguments: Mapping[str, Any]) -> Path:
    """The folder of a model; from the hub it is downloaded first."""
    if Path(source).is_dir():
        return Path(source)
    options = {key: value for key, value in arguments.items() if key != "dtype"}
    try:
        return Path(DiffusionPipeline.download(source, **options))
    except Exception as error:
        raise UserError(
            f"The checkpoint '{config.path}' cannot be fetched from the hub: {first_line(error)}."
        ) from error


def _libraries(family: type[Backbone]) -> tuple[str, ...]:
    """Packages whose networks an index may name: diffusers', and a third-party family's own."""
    own = family.__module__.partition(".")[0]
    return _LIBRARIES if own == __name__.partition(".")[0] else (*_LIBRARIES, own)


def _networks(
    config: ModelConfig, folder: Path, index: Mapping[str, Any], libraries: Sequence[str]
) -> dict[str, Any]:
    """The networks the index names, each read and checked."""
    found = {}
    for name, words in index.items():
        if not isinstance(words, list | tuple) or len(words) != 2 or words[0] is None:
            continue
        cls = _class(config.path, name, words, libraries)
        if cls is None or name in _UNNEEDED:
            continue
        if not (folder / name).is_dir():
            raise UserError(
                f"'{config.path}' has no folder '{name}', which model_index.json names. Give the "
                "whole folder of the model."
            )
        dtype = getattr(torch, config.dtype)
        found[name] = read_network(cls, folder / name, dtype, config.variant)
    return found


def _class(text: str, name: str, words: Sequence[Any], libraries: Sequence[str]) -> Any:
    """The class of a network by the index's words; None if it is something else.

    Nothing is imported but modules of the libraries, which are in use already.
    """
    library, named = str(words[0]), str(words[1])
    known = library.partition(".")[0] in libraries
    cls = getattr(import_module(library), named, None) if known else None
    if isinstance(cls, type) and issubclass(cls, torch.nn.Module):
        return cls
    if name in _NETWORKS:
        raise UserError(
            f"model_index.json in '{text}' names {list(words)} as the {name}, which is no network "
            f"of {' or '.join(libraries)}. Mend the entry, or give an intact copy."
        )
    return None


def _check_parts(text: str, folder: Path, pipe: Any) -> None:
    """Refuse a tokenizer or scheduler of another kind; say where the scheduler was replaced."""
    for name in ("tokenizer", "tokenizer_2"):
        part = getattr(pipe, name, None)
        if part is None:
            continue
        if not isinstance(part, PreTrainedTokenizerBase) or len(part) < 3:
            raise UserError(
                f"The {name} of '{text}' is no tokenizer with a vocabulary. Give an intact copy "
                f"of {folder / name}."
            )
    if not isinstance(pipe.scheduler, SchedulerMixin):
        raise UserError(f"The scheduler of '{text}' is none; give an intact copy.")
    own = read_json(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    used = type(pipe.scheduler).__name__
    if own is not None and own != used:
        logger.warning(
            "%s says its scheduler is a %s, and model_index.json names %s, which is taken.",
            folder / "scheduler",
            own,
            used,
        )


def _existing(text: str, location: Path) -> str:
    """A local folder that is a pipeline, or the text itself as a hub name."""
    if is_folder(location):
        if not (location / "model_index.json").is_file():
            raise UserError(
                f"{location} is no diffusers pipeline: it has no model_index.json. Give the folder "
                "that save_pretrained wrote, or a hub name."
            )
        return str(location)
    if is_there(location):
        raise UserError(
            f"{location} is a file; expected a folder written by save_pretrained, or a hub name."
        )
    looks_local = text.startswith((".", "/", "~", "package:")) or text.count("/") > 1
    if looks_local:
        raise UserError(f"model.path '{text}' does not exist; expected a diffusers folder.")
    return text
