"""What one file of weights is, found out from the names and shapes it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from framework.errors import UserError
from framework.training.formats.reading import read_shapes

TEXTUAL_INVERSION = "textual_inversion"
DREAMBOOTH = "dreambooth"
LORA = "dreambooth_lora"
CUSTOM_DIFFUSION = "custom_diffusion"

KINDS = (
    "a diffusers pipeline folder (DreamBooth), a U-Net of one, pytorch_lora_weights.safetensors, "
    "pytorch_custom_diffusion_weights.bin or delta.bin (Custom Diffusion), or "
    "learned_embeds.safetensors (Textual Inversion)"
)
#: Names of a word's rows that are no word.
UNNAMED = ("*", "emb_params", "clip_l", "clip_g")
#: Pieces of names that only updates of weights have, LoRA's and LyCORIS's.
UPDATES = ("lora_", "lora.", "_lora.", "lokr_", "hada_", "dora_scale")
#: Kinds of update that diffusers does not load and that are not added here either.
_FOREIGN = {
    "oft_": "OFT",
    "glora": "GLoRA",
    ".on_input": "IA3",
    "vera_lambda": "VeRA",
    "unilora": "UniLoRA",
}
#: The most entries a file of embeddings has.
_FEW = 16

Shapes = dict[str, tuple[int, ...]]


class UnknownWeights(UserError):
    """A file that can be read and holds nothing that is loaded here."""


@dataclass(frozen=True)
class Found:
    """What was recognised.

    Attributes:
        kind: one of the constants above; the personalizer of that name loads it.
        path: the file, or for DreamBooth the folder.
        text: what it is, in words.
        word: the placeholder it was learned under, where the file says it.
        more: what lies beside it in the folder and is loaded with it.
        skipped: names of files beside it that are not loaded.
    """

    kind: str
    path: Path
    text: str
    word: str | None = None
    more: tuple[Found, ...] = field(default=())
    skipped: tuple[str, ...] = ()


def file_kind(file: Path) -> Found:
    """Recognise one file.

    Raises:
        UserError: it cannot be read, or holds nothing that is known.
    """
    content = read_shapes(file)
    if isinstance(content, Tensor):
        return _embeddings(file, {"*": tuple(content.shape)})
    if not isinstance(content, Mapping):
        raise UnknownWeights(f"'{file}' holds a {type(content).__name__}; expected {KINDS}.")
    if isinstance(content.get("string_to_param"), Mapping):
        inner = {str(k): tuple(v.shape) for k, v in dict(content["string_to_param"]).items()}
        return _embeddings(file, inner)
    if isinstance(content.get("unet"), Mapping):
        return _delta(file, content)
    return _by_keys(file, _shapes(inner_state(content)))


def inner_state(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a training program's checkpoint, which nests them one level down."""
    for name in ("state_dict", "model_state_dict", "module", "model", "ema"):
        inner = content.get(name)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            return inner
    return content


def _shapes(content: Mapping[str, Any]) -> Shapes:
    return {
        str(key): tuple(value.shape)
        if isinstance(value, Tensor)
        else value
        if isinstance(value, tuple)
        else ()
        for key, value in content.items()
    }


def _by_keys(file: Path, shapes: Shapes) -> Found:
    keys = list(shapes)

    def some(*parts: str) -> bool:
        return any(part in key for key in keys for part in parts)

    if some("custom_diffusion"):
        layers = {key.rpartition(".processor")[0] for key in keys if "custom_diffusion" in key}
        more = ", with queries and outputs" if some("to_q_custom_diffusion") else ""
        text = f"Custom Diffusion as diffusers writes it ({len(layers)} cross-attention layers"
        return Found(CUSTOM_DIFFUSION, file, f"{text}{more})")
    foreign = next((name for part, name in _FOREIGN.items() if some(part)), None)
    if foreign is not None:
        raise UserError(
            f"'{file}' holds {foreign} weights, which are not read; LoRA, LoHa, LoKr, DoRA and "
            "their norms are. Merge them into a checkpoint with the program that wrote them."
        )
    if some(*UPDATES) or any(key.endswith((".diff", ".diff_b", ".w_norm")) for key in keys):
        return Found(LORA, file, _lora_text(shapes, some))
    if some("model.diffusion_model.", "cond_stage_model."):
        raise UnknownWeights(
            f"'{file}' is a whole checkpoint in one file. Convert it once to a folder: "
            f"StableDiffusionPipeline.from_single_file('{file.name}').save_pretrained('FOLDER'), "
            "and give that folder as model.path (or as concept.weights)."
        )
    if any(key.endswith("conv_in.weight") for key in keys) and some("up_blocks."):
        return Found(DREAMBOOTH, file, "a fine-tuned U-Net (DreamBooth)")
    if "emb_params" in shapes or (shapes and len(shapes) <= _FEW and _flat(shapes)):
        return _embeddings(file, shapes)
    raise UnknownWeights(
        f"'{file}' holds nothing that is known: its entries are "
        f"{', '.join(keys[:3]) or '(none)'}{', ...' if len(keys) > 3 else ''}. Expected {KINDS}."
    )


def _lora_text(shapes: Shapes, some: Any) -> str:
    kinds = {"LoHa": some("hada_"), "LoKr": some("lokr_"), "LoRA": some("lora_", "lora.")}
    kind = " and ".join(name for name, there in kinds.items() if there) or "changed weights"
    kind += " with magnitudes (DoRA)" if some("dora_scale", "magnitude") else ""
    text = " and text encoder" if some("text_encoder", "lora_te", "text_model") else ""
    program = "diffusers"
    if some("lora_unet_", "lora_te"):
        program = "kohya's program"
    elif some("base_model.model."):
        program = "peft"
    rank = f", rank {_rank(shapes)}" if kinds["LoRA"] else ""
    return f"{kind} of the U-Net{text}{rank}, as {program} writes it"


def _flat(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(1 <= len(shape) <= 3 for shape in shapes.values())


def _embeddings(file: Path, shapes: Shapes) -> Found:
    towers = {"clip_l", "clip_g"} & set(shapes)
    shape = next(iter(shapes.values()), ())
    vectors = shape[0] if len(shape) == 2 else 1
    words = [key for key in shapes if key not in UNNAMED]
    both = " for two text encoders (SDXL)" if len(towers) == 2 else ""
    width = "" if both else f" of width {shape[-1] if shape else 0}"
    for_word = f" for {', '.join(repr(word) for word in words)}" if words else ""
    text = f"Textual Inversion, {vectors} vector(s){both}{width}{for_word}"
    word = words[0] if words and not towers else _bracketed(file)
    return Found(TEXTUAL_INVERSION, file, text, word)


def _bracketed(file: Path) -> str | None:
    """The word a file of ``<word>.bin`` is called by."""
    stem = file.stem
    return stem if stem.startswith("<") and stem.endswith(">") else None


def _delta(file: Path, content: Mapping[str, Any]) -> Found:
    layers = content["unet"]
    compressed = any(isinstance(value, Mapping) for value in layers.values())
    words = list(content.get("modifier_token") or {})
    named = f", token(s) {', '.join(words)}" if words else ""
    text = (
        f"Custom Diffusion's delta file ({len(layers)} weights"
        f"{', compressed' if compressed else ''}"
        f"{', with a text encoder' if content.get('text_encoder') else ''}{named})"
    )
    return Found(CUSTOM_DIFFUSION, file, text, words[0] if words else None)


def _rank(shapes: Mapping[str, tuple[int, ...]]) -> str:
    ranks = sorted(
        {
            shape[0]
            for key, shape in shapes.items()
            if shape and ("lora_A" in key or "lora_down" in key or key.endswith("down.weight"))
        }
    )
    if not ranks:
        return "unknown"
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
