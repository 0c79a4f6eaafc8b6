"""A comparison in two passes: learn and draw, keeping everything; then score what was drawn.

Both go on where they were interrupted. A score belongs to the judge that gave it: with other
encoders the same command scores the kept pictures again, and draws none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from framework.config.evaluation import EvaluationConfig
from framework.config.page import Config
from framework.config.resources import resolve_path
from framework.experiments.compare import (
    ARMS,
    BASELINE,
    TREATED,
    Arm,
    Cell,
    Comparison,
    compare_arms,
)
from framework.metrics.judge import Judge
from framework.metrics.loading import Encoders
from framework.metrics.scale import other_concepts
from framework.metrics.summary import summarise
from framework.runs.atomic import atomic_path, read_json, write_atomic
from framework.training.personalize import fingerprint, learn, plug_in
from framework.types import Concept

DRAWN = "drawn.json"
RESULT = "result.json"


def draw_concept(pipe: Any, concept: Concept, config: Config, folder: Path) -> dict[str, Any]:
    """First pass of one concept: learn it, draw both arms; ``drawn.json`` is written last.

    Args:
        pipe: the pipeline; left as it was.
        concept: the concept.
        config: DreamMatcher's configuration.
        folder: gets ``personalizer/`` and ``images/``.

    Returns:
        What ``drawn.json`` says: the cells, the seconds, and what they were made from.
    """
    learned = learn(pipe, concept, config, folder / "personalizer")
    restore = plug_in(pipe, learned.path, concept, config)
    try:
        comparison = compare_arms(pipe, concept, config)
    finally:
        restore()
    for name, arm in comparison.arms.items():
        for cell, image in zip(comparison.cells, arm.images, strict=True):
            with atomic_path(folder / "images" / name / cell.file) as temporary:
                image.save(temporary)
    said = {
        "cells": [asdict(cell) | {"file": cell.file} for cell in comparison.cells],
        "seconds": {
            "training": learned.seconds,
            "training_cpu": learned.cpu_seconds,
            **{f"sampling_{name}": arm.seconds for name, arm in comparison.arms.items()},
        },
        "identity": fingerprint(concept, config),
    }
    write_atomic(folder / DRAWN, json.dumps(said, indent=2) + "\n")
    return said


def drawn(folder: Path, concept: Concept, config: Config) -> dict[str, Any] | None:
    """What ``drawn.json`` says, if it is whole, of the same pictures, and every image is there."""
    said = read_json(folder / DRAWN)
    if said.get("identity") != fingerprint(concept, config):
        return None
    files = [folder / "images" / arm / cell["file"] for arm in ARMS for cell in said["cells"]]
    return said if all(file.is_file() for file in files) else None


def score_concept(
    concept: Concept, config: Config, encoders: Encoders, judge: str, folder: Path
) -> tuple[dict[str, Any], Comparison]:
    """Second pass: score the kept pictures; ``result.json`` is written.

    Args:
        concept: the concept.
        config: names the library and how text is scored.
        encoders: the judge's.
        judge: its identity, see :func:`judge_identity`.
        folder: what :func:`draw_concept` filled.

    Returns:
        The report, and the comparison with its pictures.
    """
    said = read_json(folder / DRAWN)
    cells = [Cell(cell["index"], cell["prompt"], cell["seed"]) for cell in said["cells"]]
    arms = {
        name: Arm(
            name,
            [_image(folder / "images" / name / cell.file) for cell in cells],
            float(said["seconds"][f"sampling_{name}"]),
        )
        for name in ARMS
    }
    jury = Judge(encoders, concept, config.evaluation.text)
    for arm in arms.values():
        arm.scores = jury.score(arm.images, [cell.prompt for cell in cells])
    scales = jury.scales(other_concepts(config.concept.library, concept))
    scores = {name: arm.scores for name, arm in arms.items()}
    report = summarise(scores, scales, BASELINE, TREATED) | {
        "cells": said["cells"],
        "seconds": said["seconds"],
        "identity": said["identity"],
        "judge": judge,
    }
    write_atomic(folder / RESULT, json.dumps(report, indent=2) + "\n")
    return report, Comparison(concept, cells, arms)


def finished(folder: Path, concept: Concept, config: Config, judge: str) -> dict[str, Any] | None:
    """A concept's report, if it is there, whole, of the same pictures and by the same judge."""
    report = read_json(folder / RESULT)
    same = (
        report.get("identity") == fingerprint(concept, config)
        and report.get("judge") == judge
        and drawn(folder, concept, config) is not None
    )
    return report if same else None


def judge_identity(config: EvaluationConfig) -> str:
    """A hash of the encoders' files and of how pictures reach them."""
    plain = asdict(config)
    plain.pop("batch_size", None)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for text in (config.clip, config.identity):
        place = resolve_path(text)
        files = sorted(place.rglob("*")) if place.is_dir() else []
        for file in files:
            if file.is_file():
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _image(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        return opened.convert("RGB")
