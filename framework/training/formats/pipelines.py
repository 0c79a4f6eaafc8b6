"""Fine-tuned pipelines as folders: writing a whole one, loading what one holds into another."""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework.errors import UserError
from framework.runs.atomic import plain_disk_errors
from framework.training.formats.fits import check_shapes
from framework.training.formats.reading import read_weights

#: What a fine-tuned folder may replace; the rest of a pipeline draws nothing.
NETWORKS = ("unet", "text_encoder", "text_encoder_2", "vae")
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
    """What a fine-tuned folder (or U-Net) holds, ready for a pipeline.

    Args:
        pipe: the pipeline it is for; left alone.
        place: a pipeline folder, a folder with ``unet/``, a U-Net's folder, or its weights.

    Returns:
        Components by name, each on the device and in the data type of the one it replaces.

    Raises:
        UserError: it cannot be read, or is of another family.
    """
    if place.is_file():
        unet = copy.deepcopy(pipe.unet)
        state = read_weights(place)
        state = state.get("state_dict", state)
        check_shapes(place, {key: tuple(value.shape) for key, value in state.items()}, unet)
        missing = [key for key in unet.state_dict() if key not in state]
        if missing:
            raise UserError(f"{place} lacks '{missing[0]}' and {len(missing) - 1} more weights.")
        unet.load_state_dict(state)
        return {"unet": unet}
    index = place / "model_index.json"
    if index.is_file():
        family = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        if family != type(pipe).__name__:
            raise UserError(
                f"{place} holds a {family}, and the model is a {type(pipe).__name__}: weights of "
                "another family. Load that pipeline itself with model.path=, without "
                "concept.weights."
            )
    if not (place / "unet").is_dir():
        return {"unet": _load(pipe, "unet", place)}
    names = [name for name in NETWORKS if (place / name).is_dir() and hasattr(pipe, name)]
    parts = {name: _load(pipe, name, place / name) for name in names}
    for name in OTHERS:
        old = getattr(pipe, name, None)
        if old is not None and (place / name).is_dir():
            parts[name] = _read(type(old), place / name)
    return parts


def _load(pipe: Any, name: str, folder: Path) -> Any:
    """One network, checked against the one it replaces."""
    old: nn.Module = getattr(pipe, name)
    reference = next(old.parameters())
    new = _read(type(old), folder, dtype=reference.dtype)
    # A pipeline with learned words has a larger vocabulary than the model it came from.
    skipped = ("token_embedding.weight",) if name.startswith("text_encoder") else ()
    got = {key: tuple(value.shape) for key, value in new.state_dict().items()}
    check_shapes(
        folder, {k: s for k, s in got.items() if not k.endswith(skipped or ("\0",))}, old, name
    )
    return new.to(reference.device).requires_grad_(False).eval()


def _read(cls: type, folder: Path, **options: Any) -> Any:
    try:
        return cls.from_pretrained(folder, local_files_only=True, **options)  # type: ignore[attr-defined]
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder} cannot be loaded: {lines[0][:200]}") from error
