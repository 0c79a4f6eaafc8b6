"""Fine-tuned pipelines as folders: writing a whole one, loading what one holds into another."""

from __future__ import annotations

import copy
import logging
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework.backbones.components import read_network
from framework.errors import UserError, first_line
from framework.runs.atomic import plain_disk_errors
from framework.training.formats.fits import check_shapes
from framework.training.formats.kinds import inner_state
from framework.training.formats.reading import check_values, read_weights
from framework.training.formats.recognise import NETWORKS, class_of

logger = logging.getLogger(__name__)

#: What else of a fine-tuned folder is taken; the rest of a pipeline draws nothing.
OTHERS = ("tokenizer", "tokenizer_2", "scheduler")


def master_copy(module: Any) -> Any:
    """A float32 copy with parameters of its own, which an optimizer may change.

    It remembers the original's data type for :func:`write_pipeline`.
    """
    dtype = next(module.parameters()).dtype
    copied = copy.deepcopy(module).float()
    copied._written_as = dtype
    return copied


def write_pipeline(pipe: Any, folder: Path) -> Path:
    """``save_pretrained`` in one piece: the folder is there whole, or not at all.

    Trained float32 copies are written in the data type their originals had.

    Raises:
        UserError: the disk is full, or writing is not permitted.
    """
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}"
    masters = {
        name: part
        for name, part in pipe.components.items()
        if getattr(part, "_written_as", torch.float32) != torch.float32
    }
    with plain_disk_errors(folder):
        try:
            for part in masters.values():
                part.to(part._written_as)
            folder.parent.mkdir(parents=True, exist_ok=True)
            pipe.save_pretrained(temporary)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            for part in masters.values():
                part.float()
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_parts(pipe: Any, place: Path) -> dict[str, Any]:
    """Read what a fine-tuned model brings, ready for a pipeline.

    Args:
        pipe: the pipeline it is for; left alone.
        place: a pipeline folder, a folder with ``unet/`` or other networks, a U-Net's folder, or
            its weights.

    Returns:
        Components by name, each on the device and in the data type of the one it replaces.

    Raises:
        UserError: it cannot be read, is not complete, or is of another family.
    """
    if place.is_file():
        return {"unet": _from_file(pipe, place)}
    index = place / "model_index.json"
    if index.is_file():
        family = class_of(index)
        if family != type(pipe).__name__:
            raise UserError(
                f"{place} holds a {family}, and the model is a {type(pipe).__name__}: weights of "
                "another family. Load that pipeline itself with model.path=, without "
                "concept.weights."
            )
    there = [name for name in NETWORKS if (place / name / "config.json").is_file()]
    if not there:
        return {"unet": _load(pipe, "unet", place)}
    for name in there:
        if getattr(pipe, name, None) is None:
            raise UserError(
                f"{place} holds a {name}, which this model has not: weights of another family. "
                "Load that model itself with model.path=."
            )
    parts = {name: _load(pipe, name, place / name) for name in there}
    for name in OTHERS:
        old = getattr(pipe, name, None)
        if old is not None and (place / name).is_dir():
            parts[name] = _other(type(old), place / name)
    return parts


def _from_file(pipe: Any, file: Path) -> Any:
    """A copy of the U-Net with the weights of one file, however their names begin."""
    unet = copy.deepcopy(pipe.unet)
    content = inner_state(read_weights(file))
    state = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    for head in ("module.", "_orig_mod.", "unet."):
        if all(key.startswith(head) for key in state):
            state = {key.removeprefix(head): value for key, value in state.items()}
    check_shapes(file, {key: tuple(value.shape) for key, value in state.items()}, unet)
    missing = [key for key in unet.state_dict() if key not in state]
    if missing:
        raise UserError(f"{file} lacks '{missing[0]}' and {len(missing) - 1} more weights.")
    check_values(file, state)
    unet.load_state_dict(state)
    logger.info("Used all %d weights of %s.", len(state), file)
    return unet


def _load(pipe: Any, name: str, folder: Path) -> Any:
    """One network, checked against the one it replaces."""
    old: nn.Module = getattr(pipe, name)
    reference = next(old.parameters())
    new = read_network(type(old), folder, reference.dtype)
    # A pipeline with learned words has a larger vocabulary than the model it came from.
    skipped = ("token_embedding.weight",) if name.startswith("text_encoder") else ()
    got = {key: tuple(value.shape) for key, value in new.state_dict().items()}
    check_shapes(
        folder, {k: s for k, s in got.items() if not k.endswith(skipped or ("\0",))}, old, name
    )
    return new.to(reference.device).requires_grad_(False).eval()


def _other(cls: type, folder: Path) -> Any:
    """A tokenizer or scheduler."""
    try:
        return cls.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
    except Exception as error:
        raise UserError(f"{folder} cannot be loaded: {first_line(error)}.") from error
