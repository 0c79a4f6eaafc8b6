"""What a file or folder of weights is, found out from what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from framework.errors import UserError
from framework.training.formats.reading import SUFFIXES, read_keys, read_weights

TEXTUAL_INVERSION = "textual_inversion"
DREAMBOOTH = "dreambooth"
LORA = "dreambooth_lora"
CUSTOM_DIFFUSION = "custom_diffusion"

#: Names diffusers' and the original programs' files have in a folder, the surest first.
NAMED = {
    "pytorch_lora_weights": LORA,
    "pytorch_custom_diffusion_weights": CUSTOM_DIFFUSION,
    "delta": CUSTOM_DIFFUSION,
    "learned_embeds": TEXTUAL_INVERSION,
}
KINDS = (
    "a diffusers pipeline folder (DreamBooth), a U-Net of one, pytorch_lora_weights.safetensors, "
    "pytorch_custom_diffusion_weights.bin or delta.bin (Custom Diffusion), or "
    "learned_embeds.safetensors (Textual Inversion)"
)
#: The most entries a file of embeddings has.
_FEW = 16


@dataclass(frozen=True)
class Found:
    """What was recognised.

    Attributes:
        kind: one of the constants above; the personalizer of that name loads it.
        path: the file, or for DreamBooth the folder.
        text: what it is, in words.
        word: the placeholder it was learned under, where the file says it.
    """

    kind: str
    path: Path
    text: str
    word: str | None = None


def recognise(path: Path) -> Found:
    """Find out what a file or folder of weights is.

    Raises:
        UserError: there is nothing, nothing known, several things, or a file that cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise UserError(
            f"The weights '{path}' do not exist; give a file or folder that holds {KINDS}."
        )
    return _file(path)


def _folder(path: Path) -> Found:
    if (path / "model_index.json").is_file():
        name = _class_of(path / "model_index.json") or "diffusers pipeline"
        return Found(DREAMBOOTH, path, f"a whole fine-tuned {name} (DreamBooth)")
    for stem, kind in NAMED.items():
        for suffix in SUFFIXES:
            if (path / f"{stem}{suffix}").is_file():
                return _file(path / f"{stem}{suffix}", kind)
    for name in ("unet", "."):
        config = path / name / "config.json"
        if _class_of(config) == "UNet2DConditionModel":
            text = " with its text encoder" if (path / "text_encoder").is_dir() else ""
            return Found(DREAMBOOTH, path, f"a fine-tuned U-Net{text} (DreamBooth)")
    pipelines = [
        entry for entry in sorted(path.iterdir()) if (entry / "model_index.json").is_file()
    ]
    if len(pipelines) == 1:
        return _folder(pipelines[0])
    files = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES)
    if len(files) == 1:
        return _file(files[0])
    if files:
        shown = ", ".join(file.name for file in files[:5])
        raise UserError(
            f"The folder '{path}' holds several weight files ({shown}"
            f"{', ...' if len(files) > 5 else ''}) and none by a known name such as "
            "learned_embeds.safetensors; give the file itself."
        )
    raise UserError(f"The folder '{path}' holds no weights that are known; expected {KINDS}.")


def _file(file: Path, named: str | None = None) -> Found:
    if file.suffix not in SUFFIXES:
        raise UserError(
            f"'{file}' is no weight file: expected one that ends in {', '.join(SUFFIXES)}, or a "
            f"folder; that is {KINDS}."
        )
    if file.suffix == ".safetensors":
        shapes: Any = read_keys(file)
    else:
        content = read_weights(file)
        if isinstance(content, Tensor):
            return _embeddings(file, {"*": tuple(content.shape)})
        if not isinstance(content, Mapping):
            raise UserError(f"'{file}' holds a {type(content).__name__}; expected {KINDS}.")
        if "string_to_param" in content:
            inner = {str(k): tuple(v.shape) for k, v in dict(content["string_to_param"]).items()}
            return _embeddings(file, inner)
        if isinstance(content.get("unet"), Mapping):
            return _delta(file, content)
        if isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
        shapes = {
            str(key): tuple(value.shape) if isinstance(value, Tensor) else ()
            for key, value in content.items()
        }
    return _by_keys(file, shapes, named)


def _by_keys(file: Path, shapes: dict[str, tuple[int, ...]], named: str | None) -> Found:
    keys = list(shapes)

    def some(*parts: str) -> bool:
        return any(part in key for key in keys for part in parts)

    if some("custom_diffusion"):
        layers = {key.rpartition(".processor")[0] for key in keys if "custom_diffusion" in key}
        more = ", with queries and outputs" if some("to_q_custom_diffusion") else ""
        word = _token_beside(file)
        return Found(
            CUSTOM_DIFFUSION,
            file,
            f"Custom Diffusion as diffusers writes it ({len(layers)} cross-attention layers{more})",
            word,
        )
    if some("hada_w", "oft_", "glora"):
        raise UserError(
            f"'{file}' holds LyCORIS weights other than LoRA and LoKr, which diffusers does not "
            "load; convert them to LoRA, or merge them into a checkpoint."
        )
    if some("lora_", "lora.", "_lora.", "lokr_"):
        rank = _rank(shapes)
        text = " and text encoder" if some("text_encoder", "lora_te") else ""
        program = "kohya's program" if some("lora_unet_", "lora_te") else "diffusers"
        return Found(LORA, file, f"LoRA of the U-Net{text}, rank {rank}, as {program} writes it")
    if some("model.diffusion_model.", "cond_stage_model."):
        raise UserError(
            f"'{file}' is a whole checkpoint in one file. Convert it once to a folder: "
            f"StableDiffusionPipeline.from_single_file('{file.name}').save_pretrained('FOLDER'), "
            "and give that folder as model.path (or as concept.weights)."
        )
    if "conv_in.weight" in shapes and some("up_blocks."):
        return Found(DREAMBOOTH, file, "a fine-tuned U-Net (DreamBooth)")
    if "emb_params" in shapes or (shapes and len(shapes) <= _FEW and _flat(shapes)):
        return _embeddings(file, shapes)
    raise UserError(
        f"'{file}' holds nothing that is known{f' (though its name says {named})' if named else ''}"
        f": its entries are {', '.join(keys[:3]) or '(none)'}{', ...' if len(keys) > 3 else ''}. "
        f"Expected {KINDS}."
    )


def _flat(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(1 <= len(shape) <= 3 for shape in shapes.values())


def _embeddings(file: Path, shapes: dict[str, tuple[int, ...]]) -> Found:
    towers = {"clip_l", "clip_g"} & set(shapes)
    shape = next(iter(shapes.values()), ())
    width = shape[-1] if shape else 0
    vectors = shape[0] if len(shape) == 2 else 1
    word = None
    if len(shapes) == 1 and not towers:
        (key,) = shapes
        word = key if key not in ("*", "emb_params") else None
    both = " for two text encoders (SDXL)" if len(towers) == 2 else f" of width {width}"
    for_word = f" for '{word}'" if word else ""
    text = f"Textual Inversion, {vectors} vector(s){both}{for_word}"
    return Found(TEXTUAL_INVERSION, file, text, word)


def _delta(file: Path, content: Mapping[str, Any]) -> Found:
    layers = content["unet"]
    compressed = any(isinstance(value, Mapping) for value in layers.values())
    words = list(content.get("modifier_token") or {})
    text = (
        f"Custom Diffusion's delta file ({len(layers)} weights"
        f"{', compressed' if compressed else ''}{_words(words)})"
    )
    return Found(CUSTOM_DIFFUSION, file, text, words[0] if words else None)


def _words(words: list[str]) -> str:
    return f", token(s) {', '.join(words)}" if words else ""


def _token_beside(file: Path) -> str | None:
    """The word of ``<new1>.bin`` or ``.safetensors`` beside a Custom Diffusion file."""
    for entry in token_files(file.parent):
        return entry.stem
    return None


def token_files(folder: Path) -> list[Path]:
    """Files of single words, ``<new1>.bin``, sorted; each word once."""
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        bracketed = entry.stem.startswith("<") and entry.stem.endswith(">")
        if bracketed and entry.suffix in (".bin", ".safetensors"):
            found.setdefault(entry.stem, entry)
    return list(found.values())


def _rank(shapes: Mapping[str, tuple[int, ...]]) -> str:
    ranks = sorted(
        {
            shape[0]
            for key, shape in shapes.items()
            if shape and any(part in key for part in ("lora_A", "lora_down", "lora.down"))
        }
    )
    if not ranks:
        return "unknown"
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _class_of(config: Path) -> str | None:
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said.get("_class_name") if isinstance(said, dict) else None


def located(path: Path, kind: str) -> Path:
    """Where the weights of one kind are.

    Raises:
        UserError: there are none, or what is there is of another kind.
    """
    found = recognise(path)
    if found.kind != kind:
        raise UserError(
            f"{path} holds {found.text}; expected weights of '{kind}'. Load them with "
            f"personalizer={found.kind}, or give them as concept.weights, which finds out itself."
        )
    return found.path
