"""A training that has finished is known again: what it depended on, and the note it left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.interfaces import Backbone
from framework.runs.atomic import write_atomic
from framework.training.words import towers
from framework.types import Concept

NOTE = "training.json"


def training_identity(model: Backbone, concept: Concept, said: Sequence[Any]) -> str:
    """A hash of what the result depends on; of the model's weights a few tell it apart.

    Args:
        model: the backbone.
        concept: its pictures count.
        said: everything else, fit for JSON.
    """
    digest = hashlib.sha256(json.dumps(list(said), sort_keys=True).encode())
    for image in concept.images:
        digest.update(f"{image.size}".encode() + image.convert("RGB").tobytes())
    encoders = [tower.encoder(model.pipe).get_input_embeddings() for tower in towers(model.pipe)]
    tensors = [encoder.weight for encoder in encoders] + list(model.network.parameters())[:4]
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def note_finished(folder: Path, identity: str, path: Path) -> None:
    """Write down that a training has ended, and where its result is."""
    said = {"identity": identity, "file": path.relative_to(folder).as_posix()}
    write_atomic(folder / NOTE, json.dumps(said, indent=2) + "\n")


def finished(folder: Path, identity: str) -> Path | None:
    """The result of an identical training that has ended here.

    Raises:
        UserError: another training has ended here.
    """
    try:
        said = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        found, file = str(said["identity"]), folder / str(said["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if found != identity:
        raise UserError(
            f"{folder} holds the weights of another training (other options, pictures, seed or "
            "model). Choose another output folder, or remove that one."
        )
    return file if file.exists() else None
