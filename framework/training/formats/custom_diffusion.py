"""Custom Diffusion's files: diffusers' two and the original program's delta.

diffusers' own ``unet.load_attn_procs`` changes nothing when called as documented, so the weights
are merged into the U-Net here; the result is the same as with its attention processors.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.config.resources import file_stem
from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.training.copies import replace_parameter, shared_copy
from framework.training.formats.fits import check_shapes
from framework.training.formats.reading import check_values, read_weights

logger = logging.getLogger(__name__)

WEIGHTS = "pytorch_custom_diffusion_weights.bin"
_MARK = "_custom_diffusion"
_TEXT = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class CustomWeights:
    """What such a file holds.

    Attributes:
        replaced: weights by their names in the U-Net.
        added: (u, v) of compressed weights by name; u @ v is to be added.
        text: weights of text encoders by component.
        has_words: whether the file itself holds words.
    """

    replaced: dict[str, Tensor]
    added: dict[str, tuple[Tensor, Tensor]]
    text: dict[str, dict[str, Tensor]]
    has_words: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight of the U-Net."""
        plain = {name: tuple(value.shape) for name, value in self.replaced.items()}
        return plain | {name: (len(u), v.shape[-1]) for name, (u, v) in self.added.items()}

    def merged(self, name: str, old: Tensor) -> Tensor:
        """The new value of one weight."""
        if name in self.replaced:
            return self.replaced[name].to(old)
        u, v = self.added[name]
        return (old.float() + (u.float() @ v.float()).to(old.device)).to(old.dtype)


def read_custom(file: Path) -> CustomWeights:
    """Read a file of either form.

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
        name = key.removeprefix("unet.").replace(".processor.", ".").replace(_MARK, "")
        replaced[name] = value
    if not replaced:
        raise UserError(f"{file} holds no weight of Custom Diffusion.")
    check_values(file, replaced)
    return CustomWeights(replaced, {}, {}, False)


def _read_delta(file: Path, content: Mapping[str, Any]) -> CustomWeights:
    text = {name: dict(content[name]) for name in _TEXT if isinstance(content.get(name), Mapping)}
    for key in content:
        if key not in ("unet", "modifier_token", *text):
            raise UserError(
                f"{file} has the entry '{key}'; expected unet, modifier_token and "
                f"{' or '.join(_TEXT)}. Nothing of it was used."
            )
    replaced: dict[str, Tensor] = {}
    added: dict[str, tuple[Tensor, Tensor]] = {}
    for name, value in content["unet"].items():
        if isinstance(value, Mapping) and {"u", "v"} == set(value):
            added[name] = value["u"], value["v"]
        elif isinstance(value, Tensor):
            replaced[name] = value
        else:
            raise UserError(
                f"{file}: the entry '{name}' is neither a weight nor a pair of 'u' and 'v'."
            )
    check_values(file, replaced)
    for name, (u, v) in added.items():
        check_values(file, {f"{name}.u": u, f"{name}.v": v})
    return CustomWeights(replaced, added, text, bool(content.get("modifier_token")))


def merged_networks(pipe: Any, file: Path, weights: CustomWeights) -> dict[str, Any]:
    """Copies of a pipeline's networks with the file's weights.

    Raises:
        UserError: they do not fit.
    """
    check_shapes(file, weights.shapes(), pipe.unet)
    unet = shared_copy(pipe.unet)
    for name in weights.shapes():
        replace_parameter(unet, name, weights.merged(name, unet.get_parameter(name).detach()))
    parts = {"unet": unet}
    for component, state in weights.text.items():
        encoder = getattr(pipe, component, None)
        if encoder is None:
            raise UserError(
                f"{file} holds weights of '{component}', which this model has not. It was made for "
                "another family of models."
            )
        parts[component] = _encoder_with(file, component, encoder, state)
    used = len(weights.shapes()) + sum(len(state) for state in weights.text.values())
    logger.info("Used all %d weights of %s, in %s.", used, file, " and ".join(parts))
    return parts


def _encoder_with(file: Path, component: str, encoder: Any, state: Mapping[str, Tensor]) -> Any:
    """A text encoder with other weights; rows of words beyond its vocabulary are the words'."""
    own = encoder.state_dict()
    copied = shared_copy(encoder)
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue  # a constant of older transformers
        bare = key.removeprefix("text_model.")
        name = next((each for each in (key, bare, f"text_model.{bare}") if each in own), key)
        if name.endswith("token_embedding.weight") and name in own:
            table = own[name].clone()
            shared = min(len(table), len(value))
            if value.shape[1:] == table.shape[1:]:
                table[:shared] = value[:shared].to(table)
                value = table
        named[name] = value
    check_shapes(
        file, {name: tuple(value.shape) for name, value in named.items()}, encoder, component
    )
    check_values(file, named)
    for name, value in named.items():
        replace_parameter(copied, name, value.to(own[name]))
    return copied


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
        write_atomic(folder / f"{file_stem(word)}.bin", _pickled(plain))
    return folder


def _pickled(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()
