"""What a folder of weights is: one thing, of which everything is loaded that belongs together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from framework.config.resources import file_stem, is_there
from framework.errors import UserError
from framework.training.formats.kinds import (
    CUSTOM_DIFFUSION,
    DREAMBOOTH,
    KINDS,
    LORA,
    TEXTUAL_INVERSION,
    Found,
    UnknownWeights,
    file_kind,
)
from framework.training.formats.reading import SUFFIXES, read_weights

__all__ = [
    "CUSTOM_DIFFUSION",
    "DREAMBOOTH",
    "LORA",
    "TEXTUAL_INVERSION",
    "Found",
    "located",
    "recognise",
]

#: Networks a fine-tuned folder may hold, each in a folder of its own.
NETWORKS = ("unet", "text_encoder", "text_encoder_2", "vae")
#: Files of a training program's state beside the weights, by how their names begin.
_STATE = ("optimizer", "scheduler", "random_states", "scaler", "training_args", "training_state")
_PEFT = ("adapter_model.safetensors", "adapter_model.bin")


def recognise(path: Path) -> Found:
    """Find out what a file or folder of weights is.

    Raises:
        UserError: there is nothing, nothing known, several things, or a file that cannot be read.
    """
    if not is_there(path):
        raise UserError(
            f"The weights '{str(path)[:200]}' do not exist; give a file or folder that holds "
            f"{KINDS}."
        )
    if path.is_dir():
        return _folder(path)
    found = file_kind(path)
    # Custom Diffusion's weights are of no use without the files of their words beside them.
    alone = found.kind == CUSTOM_DIFFUSION and found.word is None
    return _with_words(found) if alone else found


def located(path: Path, kind: str) -> Found:
    """Recognise weights that must be of one kind.

    Raises:
        UserError: there are none, or what is there is of another kind.
    """
    found = recognise(path)
    if found.kind != kind:
        raise UserError(
            f"{path} holds {found.text}; expected weights of '{kind}'. Load them with "
            f"personalizer={found.kind}, or give them as concept.weights, which finds out itself."
        )
    return found


def companions(found: Found, kind: str) -> tuple[Found, ...]:
    """What of one kind lies beside the main part."""
    return tuple(more for more in found.more if more.kind == kind)


def _folder(path: Path) -> Found:
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"The folder '{path}' may not be read: {error.strerror}.") from error
    whole = _whole(path)
    adapters = _peft_folders(path)
    names = [entry for entry in entries if entry.suffix in SUFFIXES and not entry.is_dir()]
    state = [entry.name for entry in names if entry.name.startswith(_STATE)]
    own = path if (path / "config.json").is_file() else None  # a bare U-Net folder's own weights
    files = [entry for entry in names if entry.name not in state and not (own and whole)]
    parts, odd = _parts(path, files, alone=whole is None and not adapters)
    mains = [*([whole] if whole else []), *adapters, *(p for p in parts if _is_main(p))]
    words = [part for part in parts if part.kind == TEXTUAL_INVERSION]
    if not mains and not words:
        inner = [entry for entry in entries if (entry / "model_index.json").is_file()]
        if len(inner) == 1:
            return _folder(inner[0])
        raise UserError(f"The folder '{path}' holds no weights that are known; expected {KINDS}.")
    _check_together(path, mains, adapters, words)
    chosen = (mains or words)[0]
    rest = tuple(part for part in [*mains, *words] if part is not chosen)
    skipped = tuple(sorted([*state, *odd]))
    text = " and ".join(part.text for part in (chosen, *rest))
    word = chosen.word or next((part.word for part in rest if part.word), None)
    return replace(chosen, text=text, word=word, more=rest, skipped=skipped)


def _with_words(found: Found) -> Found:
    """A file of weights with those files beside it that are called by the word they hold."""
    beside = sorted(
        entry
        for entry in found.path.parent.iterdir()
        if entry.suffix in SUFFIXES and not entry.is_dir() and entry.name[0] != "."
    )
    files = [entry for entry in beside if entry.stem != found.path.stem]
    parts, _ = _parts(found.path.parent, files, alone=False)
    words = [part for part in parts if part.word and part.path.stem == file_stem(part.word)]
    by_word = {part.word: part for part in reversed(words)}  # a.bin goes before a.safetensors
    more = tuple(by_word[word] for word in sorted(by_word, key=str))
    return replace(found, word=more[0].word if more else None, more=more)


def _parts(path: Path, files: list[Path], alone: bool) -> tuple[list[Found], list[str]]:
    """The folder's files as what they are, and the names of those that are passed over.

    Args:
        path: the folder.
        files: its weight files.
        alone: whether nothing but they can be meant; then one that cannot be read is refused.
    """
    files, older = _without_older(_without_twins(path, files) if alone else files)
    found: list[Found] = []
    for file in files:
        try:
            found.append(file_kind(file))
        except UnknownWeights:
            if len(files) == 1 and alone:
                raise
            older.append(file.name)
        except UserError:
            if alone:
                raise
            older.append(file.name)
    if files and not found and alone:
        raise UserError(
            f"The folder '{path}' holds {', '.join(file.name for file in files[:5])}, none of "
            f"which is known; expected {KINDS}."
        )
    loose = [part for part in found if _is_loose(part)]
    if loose and (not alone or len(found) > len(loose)):
        older += [part.path.name for part in loose]
        found = [part for part in found if part not in loose]
    return found, older


def _is_loose(part: Found) -> bool:
    """Whether a file beside others could be embeddings, but nothing in it or its name says so."""
    named = part.word or "emb" in part.path.stem.lower() or "two text" in part.text
    return part.kind == TEXTUAL_INVERSION and not named


def _is_main(part: Found) -> bool:
    return part.kind != TEXTUAL_INVERSION


def _whole(path: Path) -> Found | None:
    """A pipeline, a U-Net, or networks of a pipeline."""
    if (path / "model_index.json").is_file():
        name = class_of(path / "model_index.json") or "diffusers pipeline"
        return Found(DREAMBOOTH, path, f"a whole fine-tuned {name} (DreamBooth)")
    if class_of(path / "config.json") == "UNet2DConditionModel":
        return Found(DREAMBOOTH, path, "a fine-tuned U-Net (DreamBooth)")
    there = [name for name in NETWORKS if (path / name / "config.json").is_file()]
    if "unet" in there:
        text = " with its text encoder" if "text_encoder" in there else ""
        return Found(DREAMBOOTH, path, f"a fine-tuned U-Net{text} (DreamBooth)")
    if there and not any((path / name / "adapter_config.json").is_file() for name in there):
        return Found(DREAMBOOTH, path, f"a fine-tuned {' and '.join(there)} (DreamBooth)")
    return None


def _peft_folders(path: Path) -> list[Found]:
    """Adapters as peft saves them, one folder a network."""
    found = []
    for name in NETWORKS:
        for file in (path / name / each for each in _PEFT):
            if file.is_file():
                found.append(file_kind(file))
                break
    return found


def _without_twins(path: Path, files: list[Path]) -> list[Path]:
    """Each stem once; ``x.safetensors`` goes before ``x.bin``, if they hold the same.

    Raises:
        UserError: they differ.
    """
    by_stem: dict[str, list[Path]] = {}
    for suffix in SUFFIXES:
        for file in files:
            if file.suffix == suffix:
                by_stem.setdefault(file.stem, []).append(file)
    for twins in by_stem.values():
        for other in twins[1:]:
            if not _equal(read_weights(twins[0]), read_weights(other)):
                raise UserError(
                    f"The folder '{path}' holds {twins[0].name} and {other.name}, and they differ; "
                    "give the one that is meant, or remove the other."
                )
    return sorted(twins[0] for twins in by_stem.values())


def _equal(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and bool((first == second).all())
    if hasattr(first, "keys") and hasattr(second, "keys"):
        both = dict(first), dict(second)  # type: ignore[call-overload]
        kept = [{k: v for k, v in part.items() if v is not None and v != {}} for part in both]
        return kept[0].keys() == kept[1].keys() and all(
            _equal(kept[0][key], kept[1][key]) for key in kept[0]
        )
    return bool(first == second)


def _without_older(files: list[Path]) -> tuple[list[Path], list[str]]:
    """``learned_embeds-steps-500`` and the like go where the last state lies beside them."""
    stems = {file.stem for file in files}
    older = [
        file
        for file in files
        if any(
            file.stem != stem
            and file.stem.startswith((f"{stem}-steps-", f"{stem}-step", f"{stem}-0"))
            for stem in stems
        )
    ]
    return [file for file in files if file not in older], [file.name for file in older]


def _check_together(
    path: Path, mains: list[Found], adapters: list[Found], words: list[Found]
) -> None:
    """Refuse parts that cannot all be meant."""
    kinds = [part.kind for part in mains if part not in adapters]
    if adapters and kinds:
        kinds.append(LORA)
    doubled = [kind for kind in set(kinds) if kinds.count(kind) > 1]
    both = CUSTOM_DIFFUSION in kinds and LORA in kinds
    names = {part.word for part in words}
    unnamed = len(words) > 1 and (None in names or len(names) < len(words))
    loose = not mains and unnamed and not _towers(words)
    if doubled or both or loose:
        shown = [part.path.name for part in (mains or words)]
        raise UserError(
            f"The folder '{path}' holds several weight files that are not one thing "
            f"({', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''}); give the file itself."
        )


def _towers(words: list[Found]) -> bool:
    """Whether two files are one word's, one for each text encoder of SDXL."""
    return len(words) == 2 and words[1].path.stem == f"{words[0].path.stem}_2"


def class_of(config: Path) -> str | None:
    """The class a model's configuration names; None without one."""
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict):
        return None
    name = said.get("_class_name")
    if name is None and said.get("architectures"):
        name = said["architectures"][0]
    return str(name) if name is not None else None
