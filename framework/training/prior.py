"""Class images for prior preservation: drawn by the untrained model, kept, drawn once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from framework.backbones.choose import backbone_of
from framework.concepts.images import load_images, picture_files
from framework.concepts.text import SLOT
from framework.config.resources import resolve_path
from framework.errors import UserError
from framework.runs.atomic import read_json, write_atomic
from framework.runs.progress import progress
from framework.training.options import PriorConfig
from framework.types import Concept

NOTE = ".class-images.json"
FOLDER = "class_images"


def class_prompt(config: PriorConfig, concept: Concept) -> str:
    """The sentence that names the class alone."""
    return config.prior_template.replace(SLOT, concept.class_name)


def class_images(
    pipe: Any, concept: Concept, config: PriorConfig, folder: Path, seed: int
) -> list[Image.Image]:
    """Pictures of the class: those that are there, and as many drawn as are missing.

    Picture k is drawn from seed ``seed + k``, so an interrupted drawing goes on with the same ones.

    Args:
        pipe: the pipeline, not yet trained; left as it is.
        concept: names the class.
        config: how many, where, and how they are drawn.
        folder: the training's; gets ``class_images/`` unless ``prior_folder`` names another.
        seed: of the first picture.

    Raises:
        UserError: the folder has pictures of another class or model, or unreadable ones.
    """
    from framework.training.callbacks import draw_plain

    place = folder / FOLDER if config.prior_folder is None else resolve_path(config.prior_folder)
    prompt = class_prompt(config, concept)
    said = {
        "prompt": prompt,
        "steps": config.prior_steps,
        "guidance": config.prior_guidance,
        "model": _model(pipe),
    }
    note = place / NOTE
    drawn = read_json(note)
    if drawn and drawn != said:
        other = "; ".join(
            f"{k}: {drawn.get(k)!r} there, {v!r} now" for k, v in said.items() if drawn.get(k) != v
        )
        raise UserError(
            f"{place} holds class images drawn otherwise ({other}). Give another "
            "personalizer.prior_folder, or remove that one."
        )
    there = len(_pictures(place))
    missing = config.prior_images - there
    if missing > 0:
        write_atomic(note, json.dumps(said))
        numbers = [k for k in range(config.prior_images) if not (place / _name(k)).is_file()]
        for number in progress(numbers[:missing], "drawing class images"):
            picture = next(
                iter(
                    draw_plain(
                        pipe, [prompt], seed + number, config.prior_steps, config.prior_guidance
                    )
                )
            )
            write_atomic(place / _name(number), picture.save)
    return [image for _, image in load_images(place)][: config.prior_images]


def _name(number: int) -> str:
    return f"class-{number:04d}.png"


def _pictures(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return picture_files(place)


def _model(pipe: Any) -> str:
    """A few of the network's weights as a hash; enough to tell models apart."""
    digest = hashlib.sha256()
    for tensor in list(backbone_of(pipe).network.parameters())[:4]:
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
