"""A folder of pictures -> a concept.

The folder may hold a ``concept.yaml`` with ``class_name`` and, if wanted, ``placeholder`` and
``name``; what the configuration gives goes before what that file says.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from framework.concepts.images import load_images
from framework.config.page import ConceptConfig, Config
from framework.config.resources import is_folder, is_there, resolve_path
from framework.errors import UserError, unknown_name
from framework.runs.atomic import write_atomic
from framework.types import Concept

logger = logging.getLogger(__name__)

CONCEPT_FILE = "concept.yaml"
KEYS = ("class_name", "placeholder", "name")


def load_concept(config: Config | ConceptConfig) -> Concept:
    """Find the concept's folder, read its pictures, and decide how it is called.

    Args:
        config: the configuration, or its concept section alone; ``path`` names the folder, else
            ``name`` one below ``library``.

    Returns:
        The concept. Its placeholder is the one given; else what comes with the weights says (a
        ``concept.yaml`` beside them, or the word in the file); else what the folder's
        ``concept.yaml`` says; else what the personalizer makes of the name, usually ``<name>``. An
        empty one means a model that is not personalized.

    Raises:
        UserError: no folder is named or there is none; a picture in it cannot be used; or nothing
            says what class of thing it is.
    """
    whole, config = (config, config.concept) if isinstance(config, Config) else (None, config)
    folder = _folder(config)
    pairs = load_images(folder)
    said = read_concept_file(folder)
    learned = _said_by_weights(config)
    name = safe_name(str(config.name or said.get("name") or folder.resolve().name))
    class_name = config.class_name or said.get("class_name") or learned.get("class_name") or ""
    if not class_name.strip():
        raise UserError(
            f"Nothing says what '{folder}' shows. Give its plain noun, concept.class_name=duck for "
            f"example, or write '{CONCEPT_FILE}' there with the line 'class_name: duck'."
        )
    placeholder = config.placeholder
    if placeholder is None:
        placeholder = learned.get("placeholder", said.get("placeholder"))
    if placeholder is None:
        placeholder = f"<{name}>" if whole is None else _word(whole, name)
    return Concept(
        name=name,
        placeholder=placeholder.strip(),
        class_name=" ".join(class_name.split()),
        images=tuple(image for _, image in pairs),
        sources=tuple(file for file, _ in pairs),
    )


def list_concepts(library: str | Path) -> list[str]:
    """Names of the concept folders in a library, sorted; empty if there is no such folder."""
    root = resolve_path(library)
    if not is_folder(root):
        return []
    return sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def read_concept_file(folder: str | Path) -> dict[str, str]:
    """What ``concept.yaml`` in a folder says; empty without one.

    Raises:
        UserError: it is not valid YAML, or has an unknown key or a value that is no text.
    """
    path = Path(folder) / CONCEPT_FILE
    if not is_there(path) or not path.is_file():
        return {}
    try:
        data: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # YAML errors have many classes, all mean the same here
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}; expected {', '.join(KEYS)}.")
    for key, value in data.items():
        if key not in KEYS:
            raise unknown_name(f"key in {path}", str(key), KEYS)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{key} in {path} is {value!r}; expected text, in quotes if need be.")
    return {key: value for key, value in data.items() if value is not None}


def write_concept_file(
    folder: str | Path, class_name: str, placeholder: str | None = None, name: str | None = None
) -> Path:
    """Write ``concept.yaml`` into a folder.

    Args:
        folder: of pictures, or of learned weights.
        class_name: the plain noun.
        placeholder: the concept's word; None leaves it to the reader, ``<name>``.
        name: short name; None: the folder's.

    Returns:
        The file's path.
    """
    values = {"class_name": class_name, "placeholder": placeholder, "name": name}
    given = {key: value for key, value in values.items() if value is not None}
    return write_atomic(Path(folder) / CONCEPT_FILE, OmegaConf.to_yaml(OmegaConf.create(given)))


def safe_name(text: str) -> str:
    """A lower-case name of letters, digits, ``-`` and ``_``, fit for files and prompts."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-") or "concept"


def _said_by_weights(config: ConceptConfig) -> dict[str, str]:
    """What learned weights say of their concept; empty without weights."""
    if config.weights is None:
        return {}
    from framework.training.formats.recognise import recognise

    path = resolve_path(config.weights)
    try:
        found = recognise(path)
    except UserError:
        return {}  # a format of a plug-in's own, or said when they are loaded
    said = {"placeholder": found.word} if found.word else {}
    for place in (path if path.is_dir() else path.parent, found.path.parent):
        beside = read_concept_file(place)
        if beside:
            return said | {k: v for k, v in beside.items() if k != "name"}
    return said


def _word(config: Config, name: str) -> str:
    """The placeholder a personalizer gives a concept that names none."""
    from framework.training.personalize import personalizer_for

    if config.concept.weights is None:
        return config.part("personalizer").word(name)
    path = resolve_path(config.concept.weights)
    word = personalizer_for(path, config).word(name)
    if word != f"<{name}>" and _brings_words(path):
        return f"<{name}>"
    if word != f"<{name}>":
        logger.warning(
            "Nothing says under which word the weights were learned; '%s' is assumed. Give "
            "concept.placeholder= if it was another ('\"\"' for none).",
            word,
        )
    return word


def _brings_words(path: Path) -> bool:
    """Whether weights come with rows for a word of their own, as pivotal tuning's do."""
    from framework.training.formats.recognise import TEXTUAL_INVERSION, recognise

    try:
        return any(part.kind == TEXTUAL_INVERSION for part in recognise(path).more)
    except UserError:
        return False  # a format of a plug-in's own


def _folder(config: ConceptConfig) -> Path:
    if config.path is not None:
        return resolve_path(config.path)
    known = list_concepts(config.library)
    if config.name is None:
        raise UserError(
            "No concept is named. Give concept.path=FOLDER with pictures of your object, or "
            f"concept.name= with one of: {', '.join(known) or f'(none in {config.library})'}."
        )
    if config.name not in known:
        raise unknown_name("concept", config.name, known)
    return resolve_path(config.library) / config.name
