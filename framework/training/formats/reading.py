"""The one reader of weight files: safe, and led by what a file holds, not by how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from framework.config.resources import plain_file
from framework.errors import UserError, first_line

#: Endings weight files usually have; they choose which files of a folder are looked at.
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
SAFETENSORS, PICKLE = "safetensors", "pickle"
#: First bytes of files that are taken for weights by mistake, and what they are.
_STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; run 'git lfs pull'"),
    (b"<", "a web page, as a download without permission gives; download the file again"),
    (b"GGUF", "a quantised GGUF file, which is not read; give the weights it was made from"),
    (b"\x89HDF", "an HDF5 file of Keras, which is not read; convert it to safetensors"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "a compressed archive; unpack it first"),
    (b"Rar!", "a compressed archive; unpack it first"),
    (b"7z\xbc\xaf", "a compressed archive; unpack it first"),
)


def form_of(file: Path) -> str:
    """How a weight file is written, ``safetensors`` or ``pickle``, by its first bytes.

    Raises:
        UserError: see :func:`framework.config.resources.plain_file`; or it is neither.
    """
    try:
        with plain_file(file, "file of weights").open("rb") as stream:
            head = stream.read(32)
    except OSError as error:
        raise UserError(f"'{file}' cannot be opened: {_reason(error)}.") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return SAFETENSORS
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return PICKLE
    for start, text in _STRANGERS:
        if head.lstrip().startswith(start):
            raise UserError(f"{file} cannot be read as weights: it is {text}.")
    raise UserError(
        f"{file} cannot be read as weights: its first bytes are those of neither a safetensors "
        "file nor one of torch's. Give an intact copy."
    )


def read_weights(file: Path) -> Any:
    """The content of a weight file: tensors by name, or whatever a pickled file nests.

    Pickled files are read in torch's weights-only mode.

    Raises:
        UserError: it cannot be read, or holds Python objects.
    """
    if form_of(file) == SAFETENSORS:
        try:
            with safe_open(str(file), "pt", device="cpu") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises several classes, all mean the same here
            raise UserError(_unreadable(file, error)) from error
    return _unpickled(file)


def read_shapes(file: Path) -> Any:
    """Like :func:`read_weights` for a look: a safetensors file's shapes, no tensor of it is read.

    Returns:
        Name -> shape for safetensors; else the content, its tensors left on disk where possible.

    Raises:
        UserError: it cannot be read.
    """
    if form_of(file) != SAFETENSORS:
        return _unpickled(file, mmap=True)
    try:
        with safe_open(str(file), "pt", device="cpu") as opened:
            return {
                key: tuple(opened.get_slice(key).get_shape())
                for key in opened.keys()  # noqa: SIM118
            }
    except Exception as error:
        raise UserError(_unreadable(file, error)) from error


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors; empty for other files.

    Raises:
        UserError: it cannot be read.
    """
    if form_of(file) != SAFETENSORS:
        return {}
    try:
        with safe_open(str(file), "pt", device="cpu") as opened:
            return dict(opened.metadata() or {})
    except Exception as error:
        raise UserError(_unreadable(file, error)) from error


def check_values(source: object, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors without an element, or with values that are not finite.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, value in tensors.items():
        if not value.numel():
            raise UserError(
                f"{source} holds nothing under '{name}' (shape {tuple(value.shape)}); give an "
                "intact copy."
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f"{source} has values that are not finite (NaN or infinite) in '{name}'; it was "
                "spoilt in training or in a conversion. Give another copy or checkpoint."
            )


def _unpickled(file: Path, mmap: bool = False) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        with torch.serialization.safe_globals([torch.nn.ParameterDict]), file.open("rb") as stream:
            if not mmap or file.suffix == ".safetensors":  # torch goes by that ending itself
                return _plain(torch.load(stream, **options))
            try:
                return _plain(torch.load(file, mmap=True, **options))
            except RuntimeError:  # of the older form, which cannot be left on disk
                return _plain(torch.load(stream, **options))
    except Exception as error:  # unpickling errors have many classes, all mean the same here
        raise UserError(_unreadable(file, error)) from error


def _plain(content: Any) -> Any:
    """Mappings instead of torch's own containers of parameters."""
    if isinstance(content, Mapping | torch.nn.ParameterDict):
        return {key: _plain(value) for key, value in content.items()}
    return content.detach() if isinstance(content, Tensor) else content


def _unreadable(file: Path, error: BaseException) -> str:
    said = first_line(error)
    if "weights only" in said.lower() or "weights_only" in said.lower():
        return (
            f"{file} cannot be read: it holds Python objects, and loading those would run code of "
            "the file. Convert it to safetensors with the program that wrote it."
        )
    return f"{file} cannot be read as weights: {said}."


def _reason(error: OSError | ValueError) -> str:
    said = getattr(error, "strerror", None) or str(error)
    return said[:1].lower() + said[1:]
