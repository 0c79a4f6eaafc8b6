"""Scoring any folder of images of one concept: subfolders are variants, equal names are pairs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.ablation.evaluate import write_results, write_scores
from framework.ablation.results import Results, summarise
from framework.concepts import load_concept, read_concept_file
from framework.config import ConceptConfig
from framework.errors import UserError, unknown_name
from framework.images import load_image
from framework.metrics.config import EvaluationConfig
from framework.metrics.diversity import lpips_distance
from framework.metrics.loading import load_encoders
from framework.metrics.panel import SCORES, Panel
from framework.metrics.protocols import protocol

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NUMBERED = re.compile(r"^(\d+)-(\d+)$")
HERE = "images"


def evaluate_images(
    folder: Path,
    output: Path,
    *,
    references: str | Path,
    class_name: str | None = None,
    placeholder: str = "",
    prompts: str | Path | None = None,
    baseline: str | None = None,
    protocols: Sequence[str] = ("corrected",),
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[Results]:
    """Score the pictures of a folder against a concept's own.

    Args:
        folder: pictures, or subfolders of pictures: a variant each.
        output: where tables go.
        references: folder of the concept's pictures.
        class_name: its noun; needed for the text score where no ``concept.yaml`` says it.
        placeholder: its word in the prompts, taken out before they are compared.
        prompts: see :func:`read_prompts`.
        baseline: a subfolder; default the first.
        protocols: names of protocols.
        changes: options of the evaluation.
        device: where the encoders run.

    Returns:
        One for each protocol.
    """
    variants = find_images(folder, output)
    noun = class_name or read_concept_file(references).get("class_name")
    texts = read_prompts(folder, variants, prompts)
    if any(text is not None for text in texts.values()) and not noun:
        raise UserError(
            "The text score needs the concept's plain noun: give --class-name NOUN, or write "
            f"'concept.yaml' with 'class_name: NOUN' into '{references}'."
        )
    first = baseline or next(iter(variants))
    if first not in variants:
        raise unknown_name("subfolder for --baseline", first, variants)
    section = ConceptConfig(
        path=str(references), class_name=noun or "thing", placeholder=placeholder
    )
    concept = load_concept(section)
    found = []
    for name in protocols:
        config = protocol(name).apply(EvaluationConfig(**(changes or {})))
        panel = Panel(
            load_encoders(config, device), concept, config.text, lpips=lpips_distance(config.lpips)
        )
        rows: list[dict[str, Any]] = []
        for variant, files in variants.items():
            images = [load_image(file) for file in files]
            told = [texts[file] for file in files]
            groups = [_group(file, text) for file, text in zip(files, told, strict=True)]
            scores = panel.score(images, told, groups)
            for place, file in enumerate(files):
                row: dict[str, Any] = {
                    "variant": variant,
                    "concept": concept.name,
                    "prompt": told[place] if told[place] is not None else file.stem,
                    "seed": _seed(file),
                    "file": str(file.relative_to(folder)),
                }
                rows.append(row | {key: scores[key][place] for key in SCORES if key in scores})
        write_scores(rows, output, name)
        results = summarise(rows, list(variants), first, name)
        write_results(results, output)
        found.append(results)
    return found


def find_images(folder: Path, output: Path) -> dict[str, list[Path]]:
    """The pictures of each subfolder that has some; of the folder itself if it has.

    Raises:
        UserError: there is none.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not file.is_file() or output in file.parents:
            continue
        if file.suffix.lower() in SUFFIXES:
            place = inside.parent.as_posix()
            found.setdefault(HERE if place == "." else place, []).append(file)
    if not found:
        raise UserError(
            f"'{folder}' has no picture ({', '.join(SUFFIXES)}), neither has a subfolder; give "
            "the folder of the images to score."
        )
    return found


def read_prompts(
    folder: Path, variants: Mapping[str, Sequence[Path]], source: str | Path | None
) -> dict[Path, str | None]:
    """The prompt of each picture, or None.

    Args:
        folder: that is scored.
        variants: its pictures.
        source: a CSV with columns ``file`` and ``prompt`` (paths below the folder, or bare names),
            or a text file with one prompt a line for pictures named ``PROMPT-SEED``; None looks for
            ``prompts.json`` in the folder.

    Raises:
        UserError: the file cannot be used, or names no prompt for a picture.
    """
    files = [file for each in variants.values() for file in each]
    if source is None:
        return dict.fromkeys(files) | _from_json(folder / "prompts.json", files)
    path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts '{path}' cannot be read: {error}.") from error
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        if not rows or not {"file", "prompt"} <= set(rows[0]):
            raise UserError(f"'{path}' is no CSV with the columns file and prompt.")
        by_name = {row["file"]: row["prompt"] for row in rows}
        found = {
            file: by_name.get(file.relative_to(folder).as_posix(), by_name.get(file.name))
            for file in files
        }
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found = {}
        for file in files:
            match = NUMBERED.match(file.stem)
            index = int(match[1]) if match else -1
            found[file] = lines[index] if 0 <= index < len(lines) else None
    lacking = [file for file in files if found[file] is None]
    if lacking:
        raise UserError(
            f"'{path}' gives no prompt for {len(lacking)} of {len(files)} pictures, "
            f"'{lacking[0].relative_to(folder)}' for one. A CSV names them by path or file name; a "
            "text file numbers them: 003-0.png has its fourth prompt."
        )
    return found


def _from_json(path: Path, files: Sequence[Path]) -> dict[Path, str | None]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        named = {name: each["prompt"] for each in entries for name in each["images"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {file: named.get(file.name) for file in files}


def _group(file: Path, prompt: str | None) -> str:
    """Pictures of one prompt; by the number before the dash where the prompt is not known."""
    match = NUMBERED.match(file.stem)
    return prompt if prompt is not None else (match[1] if match else file.stem)


def _seed(file: Path) -> int:
    match = NUMBERED.match(file.stem)
    return int(match[2]) if match else 0
