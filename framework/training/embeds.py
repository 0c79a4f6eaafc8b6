"""Files of learned embeddings: what diffusers writes, what other programs write."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.training.formats.kinds import UNNAMED
from framework.training.formats.lora import BUNDLED
from framework.training.formats.reading import read_weights
from framework.training.words import Tower, check_widths, towers

logger = logging.getLogger(__name__)

FILE = "learned_embeds.safetensors"

#: Rows (n, d) by the tower's key, of each word.
Words = dict[str, dict[str, Tensor]]


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


def read_words(pipe: Any, files: Sequence[Path], placeholder: str) -> Words:
    """Read the words of files for the text encoders of a pipeline.

    Understood are diffusers' files (entries by word, or ``clip_l`` and ``clip_g``), those of the
    Textual Inversion program and of the web interface (``string_to_param``), words bundled into a
    LoRA file, and a bare tensor. Two files of one word are its rows for two text encoders. A word
    for one of two text encoders is added to that one; the other reads it letter by letter.

    Args:
        pipe: the pipeline.
        files: they belong together.
        placeholder: what a single word is called here, whatever the files call it; of several
            words, which keep their names, it must be one.

    Returns:
        (n, d) float32 by word and by the tower's key.

    Raises:
        UserError: a file cannot be read, is for another family of models, or the placeholder is
            none of several words.
    """
    words: Words = {}
    for file in files:
        for word, tensors in _named(file).items():
            rows = words.setdefault(word, {})
            for key, tensor in tensors.items():
                tower = _tower(pipe, file, key, tensor)
                if tower.key in rows:
                    raise UserError(
                        f"{file} holds the word '{word}' for {tower.encoder_name} a second time; "
                        "give one file for each word."
                    )
                rows[tower.key] = check_rows(file, tensor)
            check_widths(pipe, rows, file)
    if len(words) == 1:
        words = {placeholder: next(iter(words.values()))}
    elif words and placeholder not in words:
        raise UserError(
            f"{files[0]} holds the words {', '.join(words)}, and the concept's placeholder is "
            f"'{placeholder}'. Say which one it is, e.g. concept.placeholder='{next(iter(words))}'."
        )
    for word, rows in words.items():
        _say_one_sided(pipe, word, rows)
    return words


def _named(file: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by word and, where it says it, by tower; "" is not said.

    A word without a name is called by the file's.
    """
    content = read_weights(file)
    if isinstance(content, Tensor):
        content = {"*": content}
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}; expected embeddings.")
    if isinstance(content.get("modifier_token"), Mapping):  # Custom Diffusion's delta
        return {
            str(word): dict(rows) if isinstance(rows, Mapping) else {"": rows}
            for word, rows in content["modifier_token"].items()
        }
    if isinstance(content.get("string_to_param"), Mapping):
        content = dict(content["string_to_param"])
    tensors = {str(key): value for key, value in dict(content).items() if isinstance(value, Tensor)}
    bundled = {key: value for key, value in tensors.items() if key.startswith(BUNDLED)}
    if bundled:
        return _unbundled(bundled)
    if not tensors:
        raise UserError(f"{file} holds no tensor; expected embeddings.")
    by_tower = {key: value for key, value in tensors.items() if key in ("clip_l", "clip_g")}
    if by_tower and len(by_tower) < len(tensors):
        other = next(key for key in tensors if key not in by_tower)
        raise UserError(
            f"{file} holds '{other}' beside {' and '.join(by_tower)}: rows for a text encoder that "
            "this family of models has not. Give embeddings of this family."
        )
    if by_tower:
        return {file.stem: by_tower}
    return {file.stem if key in UNNAMED else key: {"": value} for key, value in tensors.items()}


def _unbundled(entries: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """``bundle_emb.WORD.clip_l`` or ``bundle_emb.WORD.string_to_param.*``, by word and tower."""
    words: dict[str, dict[str, Tensor]] = {}
    for key, value in entries.items():
        word, _, rest = key.removeprefix(BUNDLED).partition(".")
        words.setdefault(word, {})[rest if rest in ("clip_l", "clip_g") else ""] = value
    return words


def _tower(pipe: Any, file: Path, key: str, tensor: Tensor) -> Tower:
    """The text encoder rows are for: as they say, by the file's name, or by their width."""
    there = towers(pipe)
    by_key = [tower for tower in there if tower.key == key]
    if by_key:
        return by_key[0]
    if key:
        raise UserError(
            f"{file} holds '{key}' {tuple(tensor.shape)}; this model has the text encoder(s) "
            f"{', '.join(tower.key for tower in there)}. It is for another family of models."
        )
    fits = [tower for tower in there if tower.width(pipe) == tensor.shape[-1]]
    if file.stem.endswith("_2") and there[-1] in fits:
        return there[-1]
    return (fits or there)[0]


def _say_one_sided(pipe: Any, word: str, rows: Mapping[str, Tensor]) -> None:
    missing = [tower.encoder_name for tower in towers(pipe) if tower.key not in rows]
    if missing:
        logger.warning(
            "The word '%s' was learned for one text encoder alone; %s reads its letters.",
            word,
            missing[0],
        )


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
