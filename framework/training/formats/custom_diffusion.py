"""Custom Diffusion's files: diffusers' two and the original program's delta.

diffusers' own ``unet.load_attn_procs`` changes nothing when called as documented, so the weights
are merged into the U-Net here; the result is the same as with its attention processors.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.training.formats.reading import read_weights
from framework.training.formats.recognise import token_files

WEIGHTS = "pytorch_custom_diffusion_weights.bin"
_MARK = "_custom_diffusion"


@dataclass(frozen=True)
class CustomWeights:
    """What such a file holds.

    Attributes:
        replaced: U-Net weights by their names there.
        added: (u, v) of compressed weights by name; u @ v is to be added.
        words: embeddings by word: one tensor (n, d), or one for each tower's key.
    """

    replaced: dict[str, Tensor]
    added: dict[str, tuple[Tensor, Tensor]]
    words: dict[str, Any]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight."""
        plain = {name: tuple(value.shape) for name, value in self.replaced.items()}
        return plain | {name: (len(u), v.shape[-1]) for name, (u, v) in self.added.items()}

    def merged(self, name: str, old: Tensor) -> Tensor:
        """The new value of one weight."""
        if name in self.replaced:
            return self.replaced[name].to(old)
        u, v = self.added[name]
        return (old.float() + (u.float() @ v.float()).to(old.device)).to(old.dtype)


def read_custom(file: Path) -> CustomWeights:
    """Read a file of either form; diffusers' words lie beside it.

    Raises:
        UserError: it cannot be read or is no such file.
    """
    content = read_weights(file)
    if isinstance(content, Mapping) and isinstance(content.get("unet"), Mapping):
        return _read_delta(file, content)
    replaced = {}
    for key, value in dict(content).items():
        if not isinstance(value, Tensor):
            continue  # diffusers writes an empty entry for every self-attention layer
        if ".processor." not in key or _MARK not in key:
            raise UserError(
                f"{file} has the entry '{key}'; expected Custom Diffusion's, which hold "
                f"'.processor.' and '{_MARK}'."
            )
        replaced[key.replace(".processor.", ".").replace(_MARK, "")] = value
    if not replaced:
        raise UserError(f"{file} holds no weight of Custom Diffusion.")
    words: dict[str, Any] = {}
    for beside in token_files(file.parent):
        found = read_weights(beside)
        if isinstance(found, Mapping) and {"clip_l", "clip_g"} <= set(found):
            words[beside.stem] = dict(found)
        elif isinstance(found, Mapping):
            words |= {str(key): value for key, value in found.items()}
    return CustomWeights(replaced, {}, words)


def _read_delta(file: Path, content: Mapping[str, Any]) -> CustomWeights:
    replaced: dict[str, Tensor] = {}
    added: dict[str, tuple[Tensor, Tensor]] = {}
    for name, value in content["unet"].items():
        if isinstance(value, Mapping) and {"u", "v"} <= set(value):
            added[name] = value["u"], value["v"]
        elif isinstance(value, Tensor):
            replaced[name] = value
        else:
            raise UserError(
                f"{file}: the entry '{name}' is neither a weight nor a pair of 'u' and 'v'."
            )
    return CustomWeights(replaced, added, dict(content.get("modifier_token") or {}))


def write_custom(
    folder: Path, unet: Any, trained: Mapping[str, Tensor], words: Mapping[str, Any]
) -> Path:
    """Write the two files as diffusers' own training script does.

    Args:
        folder: where to.
        unet: tells which attention layers there are.
        trained: weights by their names in the U-Net.
        words: word -> (n, d), or -> one tensor for each tower's key.

    Returns:
        The folder.
    """
    content: dict[str, Any] = {}
    for name, value in trained.items():
        layer, _, rest = name.partition(".to_")
        part, _, end = rest.rpartition(".")  # "k", "weight"; "out.0", "bias"
        head, dot, index = part.partition(".")
        key = f"{layer}.processor.to_{head}{_MARK}{dot}{index}.{end}"
        content[key] = value.detach().float().cpu().clone()
    for name in unet.attn_processors:
        if not any(key.startswith(f"{name}.") for key in content):
            content[name] = {}
    write_atomic(folder / WEIGHTS, _pickled(content))
    for word, rows in words.items():
        plain = (
            {key: value.detach().float().cpu().clone() for key, value in rows.items()}
            if isinstance(rows, Mapping)
            else {word: rows.detach().float().cpu().clone()}
        )
        write_atomic(folder / f"{word}.bin", _pickled(plain))
    return folder


def _pickled(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()
