"""One network of a model folder, read so that nothing is missing, invented or not finite."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework.errors import UserError, first_line

logger = logging.getLogger(__name__)

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[A-Za-z][\w-]*?))?"
    r"(?:-\d{5}-of-\d{5}(?:\.(?P<older>[A-Za-z]\w*))?)?\.(?:safetensors|bin)"
)
#: Tensors of older files that are constants today.
_CONSTANTS = ("position_ids",)


def read_network(
    cls: Any, folder: Path, dtype: torch.dtype | None = None, variant: str | None = None
) -> Any:
    """Load a network by its library, and check what the library made of it.

    Args:
        cls: a class of diffusers or transformers.
        folder: with its configuration and weights.
        dtype: data type; None: the file's.
        variant: e.g. ``fp16``; None: the plain weights, or the only variant there is.

    Raises:
        UserError: the folder is damaged, lacks a weight, or has values that are not finite.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give the whole folder of the model.")
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    chosen = pick_variant(folder, variant)
    if chosen is not None:
        options["variant"] = chosen
    try:
        network, told = cls.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # both libraries raise many classes
        raise UserError(f"{folder} cannot be loaded: {first_line(error)}.") from error
    missing = sorted(told.get("missing_keys") or ())
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} weight(s) of a {type(network).__name__}, "
            f"'{missing[0]}' for one, which the library would fill at random. Give an intact copy."
        )
    unused = [key for key in sorted(told.get("unexpected_keys") or ()) if not _constant(key)]
    if unused:
        logger.warning(
            "%s holds %d weight(s) that a %s has no place for, '%s' for one; they are not used.",
            folder,
            len(unused),
            type(network).__name__,
            unused[0],
        )
    check_finite(folder, network)
    return network


def pick_variant(folder: Path, wanted: str | None = None) -> str | None:
    """Which variant of the weights in a folder is loaded; None: the plain ones.

    Args:
        folder: a network's folder.
        wanted: the configured one; taken where it is there.

    Raises:
        UserError: there are only variants, and several of them.
    """
    names = (entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    matches = [match for match in map(_WEIGHTS.fullmatch, names) if match]
    found = [match["variant"] or match["older"] for match in matches]
    variants = sorted({variant for variant in found if variant})
    if wanted is not None:
        return wanted if wanted in variants or not matches else None
    if None in found or not variants:
        return None
    if len(variants) > 1:
        raise UserError(
            f"{folder} has its weights only as the variants {', '.join(variants)}; say which one "
            "with model.variant=."
        )
    logger.info("Only the variant '%s' is in %s; it is taken.", variants[0], folder)
    return variants[0]


def check_finite(source: object, network: nn.Module) -> None:
    """Refuse a network with values that are not finite.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, value in network.state_dict().items():
        real = value.is_floating_point() and value.element_size() > 1
        if real and not torch.isfinite(value).all():
            raise UserError(
                f"{source} has values that are not finite (NaN or infinite) in '{name}'; it was "
                "spoilt in training or in a conversion. Give another copy or checkpoint."
            )


def _constant(key: str) -> bool:
    return key.endswith(_CONSTANTS)
