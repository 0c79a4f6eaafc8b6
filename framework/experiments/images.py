"""Scoring any folder of images: subfolders are variants, equal names are pairs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.concepts.folders import load_concept, read_concept_file
from framework.concepts.images import IGNORED, load_image
from framework.config.evaluation import EvaluationConfig
from framework.config.page import ConceptConfig
from framework.errors import UserError, unknown_name
from framework.experiments.evaluate import write_results, write_scores
from framework.experiments.results import Results, compare_variants
from framework.metrics.diversity import lpips_distance
from framework.metrics.loading import load_encoders
from framework.metrics.panel import SCORES, Panel
from framework.metrics.protocols import protocol
from framework.types import Concept

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NUMBERED = re.compile(r"^(\d+)-(\d+)$")
HERE = "images"


@dataclass(frozen=True)
class Picture:
    """A picture to score.

    Attributes:
        file: its path.
        variant: the subfolder it is of; :data:`HERE` for the folder itself.
        concept: whose picture it is meant to be.
    """

    file: Path
    variant: str
    concept: str


@dataclass(frozen=True)
class Depicted:
    """What pictures are meant to show, and how that is said.

    Attributes:
        references: folder of the concept's pictures; or of one such folder for each concept, and
            then every picture lies in a subfolder called like its concept.
        class_name: its noun; needed for the text score where no ``concept.yaml`` says it.
        placeholder: its word in the prompts, taken out before they are compared.
        prompts: see :func:`read_prompts`.
    """

    references: str | Path
    class_name: str | None = None
    placeholder: str = ""
    prompts: str | Path | None = None


def evaluate_images(
    folder: Path,
    output: Path,
    subject: Depicted,
    *,
    baseline: str | None = None,
    protocols: Sequence[str] = ("corrected",),
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[Results]:
    """Score the pictures of a folder against those of their concepts.

    Args:
        folder: pictures, or subfolders of pictures: a variant each.
        output: where tables go.
        subject: what they show.
        baseline: a variant; default the first.
        protocols: names of protocols.
        changes: options of the evaluation.
        device: where the encoders run.

    Returns:
        One for each protocol.
    """
    places = reference_folders(subject.references)
    pictures = find_images(folder, output, places)
    texts = read_prompts(folder, [each.file for each in pictures], subject.prompts)
    told = any(text is not None for text in texts.values())
    variants = list(dict.fromkeys(each.variant for each in pictures))
    first = baseline or variants[0]
    if first not in variants:
        raise unknown_name("subfolder for --baseline", first, variants)
    concepts = {
        name: _concept(place, name, subject, told)
        for name, place in places.items()
        if any(each.concept == name for each in pictures)
    }
    found = []
    for name in protocols:
        config = protocol(name).apply(EvaluationConfig(**(changes or {})))
        encoders, lpips = load_encoders(config, device), lpips_distance(config.lpips)
        rows: list[dict[str, Any]] = []
        for concept in concepts:
            panel = Panel(encoders, concepts[concept], config.text, lpips=lpips)
            for variant in variants:
                own = [e for e in pictures if (e.concept, e.variant) == (concept, variant)]
                rows += _score(folder, own, texts, panel) if own else []
        write_scores(rows, output, name)
        results = compare_variants(rows, variants, first, name)
        write_results(results, output)
        found.append(results)
    return found


def reference_folders(references: str | Path) -> dict[str, Path]:
    """The folder of each concept's pictures: the one given, or, if it only holds folders, those."""
    place = Path(references).expanduser()
    if not place.is_dir():
        return {place.name: place}
    entries = [e for e in place.iterdir() if not e.name.startswith(".") and e.name not in IGNORED]
    if any(entry.suffix.lower() in SUFFIXES for entry in entries):
        return {place.name: place}
    inside = {entry.name: entry for entry in sorted(entries) if entry.is_dir()}
    return inside or {place.name: place}


def find_images(folder: Path, output: Path, places: Mapping[str, Path]) -> list[Picture]:
    """The pictures of a folder and its subfolders, sorted by path.

    Args:
        folder: where to look.
        output: a folder that is left out.
        places: the concepts. If there are several, the innermost folder called like one says whose
            picture it is, and the rest of the path is the variant.

    Raises:
        UserError: there is none, or one lies in no folder called like a concept.
    """
    found = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not file.is_file() or output in file.parents:
            continue
        if file.suffix.lower() not in SUFFIXES:
            continue
        parts, concept = list(inside.parent.parts), next(iter(places))
        if len(places) > 1:
            named = [place for place, part in enumerate(parts) if part in places]
            if not named:
                raise UserError(
                    f"'{inside}' lies in no folder called like a concept, but the references are "
                    f"of several: {', '.join(places)}. Sort the pictures into such folders, or "
                    "give the folder of one concept."
                )
            concept = parts.pop(named[-1])
        found.append(Picture(file, "/".join(parts) or HERE, concept))
    if not found:
        raise UserError(
            f"'{folder}' has no picture ({', '.join(SUFFIXES)}), neither has a subfolder; give "
            "the folder of the images to score."
        )
    return found


def _concept(place: Path, name: str, subject: Depicted, told: bool) -> Concept:
    noun = subject.class_name or read_concept_file(place).get("class_name")
    if told and not noun:
        raise UserError(
            f"The text score needs the plain noun of '{name}': give --class-name NOUN, or write "
            f"'concept.yaml' with 'class_name: NOUN' into '{place}'."
        )
    section = ConceptConfig(
        path=str(place), class_name=noun or "thing", placeholder=subject.placeholder
    )
    return load_concept(section)


def _score(
    folder: Path, pictures: Sequence[Picture], texts: Mapping[Path, str | None], panel: Panel
) -> list[dict[str, Any]]:
    """A row for each picture of one variant and concept."""
    images = [load_image(each.file) for each in pictures]
    told = [texts[each.file] for each in pictures]
    groups = [_group(each.file, text) for each, text in zip(pictures, told, strict=True)]
    scores = panel.score(images, told, groups)
    rows = []
    for place, each in enumerate(pictures):
        row: dict[str, Any] = {
            "variant": each.variant,
            "concept": each.concept,
            "prompt": told[place] if told[place] is not None else each.file.stem,
            "seed": _seed(each.file),
            "file": str(each.file.relative_to(folder)),
        }
        rows.append(row | {key: scores[key][place] for key in SCORES if key in scores})
    return rows


def read_prompts(
    folder: Path, files: Sequence[Path], source: str | Path | None
) -> dict[Path, str | None]:
    """The prompt of each picture, or None.

    Args:
        folder: that is scored.
        files: its pictures.
        source: a CSV with columns ``file`` and ``prompt`` (paths below the folder, or bare names),
            or a text file with one prompt a line for pictures named ``PROMPT-SEED``; None looks for
            ``prompts.json`` in the folder.

    Raises:
        UserError: the file cannot be used, or names no prompt for a picture.
    """
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
