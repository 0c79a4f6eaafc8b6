"""Reading weight files without executing anything they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from framework.errors import UserError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def read_weights(file: Path) -> Any:
    """The content of a weight file: tensors by name, or whatever a pickled file nests.

    Pickled files are read in torch's weights-only mode.

    Raises:
        UserError: it cannot be read, or holds Python objects.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), "pt", device="cpu") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, ValueError, EOFError, RuntimeError, OSError) as error:
        raise UserError(_unreadable(file, error)) from error
    except Exception as error:  # unpickling errors have many classes, all mean the same here
        raise UserError(_unreadable(file, error)) from error


def read_keys(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, without its tensors.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with safe_open(str(file), "pt", device="cpu") as opened:
            return {
                key: tuple(opened.get_slice(key).get_shape())
                for key in opened.keys()  # noqa: SIM118
            }
    except Exception as error:
        raise UserError(_unreadable(file, error)) from error


def _unreadable(file: Path, error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if file.stat().st_size == 0:
        return f"{file} is empty (0 bytes); give an intact copy."
    if file.suffix != ".safetensors" and "weights" in lines[0].lower():
        return (
            f"{file} cannot be read: it holds Python objects, and loading those would run code of "
            "the file. Convert it to safetensors with the program that wrote it."
        )
    return f"{file} cannot be read as weights: {lines[0][:200]}"
