"""Files of learned embeddings: what diffusers writes, what other programs write."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.training.formats.reading import read_weights
from framework.training.formats.recognise import TEXTUAL_INVERSION, located
from framework.training.words import Tower

FILE = "learned_embeds.safetensors"


def write_embeds(path: Path, placeholder: str, rows: dict[str, Tensor]) -> Path:
    """Write rows as diffusers does: ``{placeholder: (n, d)}``, or one entry a text encoder.

    Args:
        path: the file.
        placeholder: the word.
        rows: (n, d) by the tower's key; with one tower the placeholder becomes the key.

    Returns:
        The path.
    """
    plain = {key: row.detach().float().cpu().contiguous() for key, row in rows.items()}
    if len(plain) == 1:
        plain = {placeholder: next(iter(plain.values()))}
    # One entry of metadata only: safetensors writes several in an order that varies.
    return write_atomic(path, save(plain, metadata={"format": "pt"}))


def read_embeds(path: Path, needed: list[Tower], word: str | None = None) -> dict[str, Tensor]:
    """Read rows for the text encoders of a pipeline.

    Understood are diffusers' files (one entry, or ``clip_l`` and ``clip_g``), those of the Textual
    Inversion program and of the web interface (``string_to_param``), and a bare tensor. Pickled
    files are read in torch's weights-only mode: no code of the file is executed.

    Args:
        path: the file, or a folder with ``learned_embeds.safetensors`` or ``.bin``.
        needed: the pipeline's towers.
        word: of a file with several words, the one that is wanted.

    Returns:
        (n, d) float32 by the tower's key.

    Raises:
        UserError: no such file, it cannot be read, or it is for another family of models.
    """
    file = located(path, TEXTUAL_INVERSION)
    content = read_weights(file)
    if isinstance(content, Tensor):
        content = {"*": content}
    if isinstance(content, dict) and "string_to_param" in content:
        content = dict(content["string_to_param"])
    tensors = {str(key): value for key, value in dict(content).items() if isinstance(value, Tensor)}
    keys = [tower.key for tower in needed]
    if len(keys) == 1 and word in tensors:
        tensors = {keys[0]: tensors[word]}  # type: ignore[index]
    elif len(keys) == 1 and len(tensors) == 1:
        tensors = {keys[0]: next(iter(tensors.values()))}
    if set(keys) != set(tensors):
        shown = ", ".join(f"'{key}' {tuple(value.shape)}" for key, value in tensors.items())
        raise UserError(
            f"{file} holds {shown or 'no tensor'}; a model with {len(keys)} text encoder(s) needs "
            f"{'one entry' if len(keys) == 1 else ' and '.join(keys)}. "
            "The weights are for another family of models."
        )
    return {key: check_rows(file, tensors[key]) for key in keys}


def check_rows(source: object, tensor: Tensor) -> Tensor:
    """Embedding rows as (n, d) float32.

    Raises:
        UserError: another shape, or values that are not finite.
    """
    rows = tensor.detach().float()
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not len(rows) or not torch.isfinite(rows).all():
        raise UserError(
            f"{source} holds an embedding of shape {tuple(tensor.shape)}"
            f"{'' if torch.isfinite(rows).all() else ' with values that are not finite'}; expected "
            "(vectors, width), all finite."
        )
    return rows
