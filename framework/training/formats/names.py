"""Names of layers in LoRA files -> layers of this model, whichever program wrote them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from framework.training.words import towers

#: How names begin, and of which network each beginning speaks; the longest that fits counts.
_HEADS = {
    "lora_unet_": "unet",
    "lycoris_": "unet",
    "unet.": "unet",
    "unet_": "unet",
    "diffusion_model.": "unet",
    "model.diffusion_model.": "unet",
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "text_encoder.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "clip_l.transformer.": "text_encoder",
    "clip_l.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "clip_g.transformer.": "text_encoder_2",
    "clip_g.": "text_encoder_2",
    "transformer.": "transformer",
    "lora_transformer_": "transformer",
}
_WRAPPERS = ("base_model.model.", "module.", "_orig_mod.")
#: What the ends of a file's names say: a part of an update.
_ROLES = (
    (r"[._]lora(?:_linear_layer)?\.(down|up)\.(weight|bias)", "{0}_{1}"),
    (r"\.lora_(down|up|mid)\.(weight|bias)", "{0}_{1}"),
    (r"\.lora_(A|B)(?:\.(?!weight|bias)\w+)?\.(weight|bias)", "{0}_{1}"),
    (r"\.lora_(magnitude_vector)(?:\.\w+)?", "{0}"),
    (r"\.(alpha|dora_scale|diff|diff_b|w_norm|b_norm)", "{0}"),
    (r"\.((?:hada|lokr)_(?:w[12](?:_[ab])?|t[12]))", "{0}"),
)
_SPELLINGS = {"A_weight": "down_weight", "B_weight": "up_weight", "B_bias": "up_bias"}
#: Pieces of the names of the original program's U-Net, which diffusers' converter knows.
_ORIGINAL = ("input_blocks", "middle_block", "output_blocks", "time_embed_", "label_emb", "out_2")


@dataclass(frozen=True)
class Place:
    """One layer of a pipeline.

    Attributes:
        component: the network's attribute in the pipeline.
        path: the layer's path there.
    """

    component: str
    path: str


def split_key(key: str) -> tuple[str, str] | None:
    """A key -> (name of the layer, part of the update); None if it is no part of one."""
    for pattern, form in _ROLES:
        match = re.fullmatch(rf"(.+?){pattern}", key)
        if match:
            part = form.format(*match.groups()[1:])
            return match[1], _SPELLINGS.get(part, part)
    return None


class LayerNames:
    """Finds the layers of a pipeline by the names other programs give them.

    Names are compared with ``.`` and ``_`` made equal, so no table of one program's habits is
    needed where a name follows the model's own; what is left goes through diffusers' converter.

    Args:
        pipe: the pipeline.
        component: the network that names without a beginning speak of; None: any.
    """

    def __init__(self, pipe: Any, component: str | None = None) -> None:
        self.pipe = pipe
        self.component = component
        names = ["unet", *(tower.encoder_name for tower in towers(pipe))]
        self.tables = {name: _paths(getattr(pipe, name)) for name in names}

    def find(self, name: str) -> Place | None:
        """The layer a name means, or None."""
        for component, rest in self._readings(name):
            table = self.tables.get(component)
            if table is None:
                continue
            tries = _unet_names(rest) if component == "unet" else _text_names(rest)
            for each in tries:
                if each in table:
                    return Place(component, table[each])
            if component == "unet" and any(part in tries[0] for part in _ORIGINAL):
                return self._converted(tries[0])
        return None

    def component_of(self, name: str) -> str | None:
        """Which network a name speaks of; None if it does not say."""
        return next((component for component, _ in self._readings(name)), None)

    def _readings(self, name: str) -> list[tuple[str, str]]:
        """(network, rest of the name), the likeliest first."""
        for wrapper in _WRAPPERS:
            name = name.removeprefix(wrapper)
        heads = [head for head in _HEADS if name.startswith(head)]
        if heads:
            head = max(heads, key=len)
            rest = name.removeprefix(head)
            for wrapper in _WRAPPERS:
                rest = rest.removeprefix(wrapper)
            return [(_HEADS[head], rest)]
        if self.component is not None:
            return [(self.component, name)]
        return [(component, name) for component in self.tables]

    def _converted(self, flat: str) -> Place | None:
        """A name of the original program's U-Net by diffusers' own converter."""
        key = f"lora_unet_{flat}.lora_{{}}.weight"
        state = {key.format(end): torch.zeros(1, 1) for end in ("down", "up")}
        try:
            names = list(
                type(self.pipe).lora_state_dict(state, unet_config=self.pipe.unet.config)[0]
            )
        except Exception:  # whatever it meets there, the name is none it knows
            return None
        parted = split_key(names[0].removeprefix("unet.")) if names else None
        if parted is None:
            return None
        found = [each for each in _unet_names(parted[0]) if each in self.tables["unet"]]
        return Place("unet", self.tables["unet"][found[0]]) if found else None


def base_layer(layer: nn.Module) -> nn.Module:
    """The layer below adapters that may be on it."""
    below = getattr(layer, "get_base_layer", None)
    return layer if below is None else below()


def _paths(network: nn.Module) -> dict[str, str]:
    """Path with ``.`` as ``_`` -> path, of every layer with a weight, below adapters, too."""
    found: dict[str, str] = {}
    adapted: list[str] = []
    for path, layer in network.named_modules():
        if any(path.startswith(f"{outer}.") for outer in adapted):
            continue
        if hasattr(layer, "get_base_layer"):
            adapted.append(path)
        if getattr(base_layer(layer), "weight", None) is not None:
            found.setdefault(path.replace(".", "_"), path)
    return found


def _unet_names(name: str) -> list[str]:
    flat = name.replace(".", "_").replace("_processor_", "_")
    return [flat, f"{flat}_0"] if flat.endswith("to_out") else [flat]


def _text_names(name: str) -> list[str]:
    flat = name.replace(".", "_")
    match = re.fullmatch(r"(.*self_attn_)to_(q|k|v|out)", flat)
    if match:
        flat = f"{match[1]}{match[2]}_proj"
    bare = flat.removeprefix("transformer_").removeprefix("text_model_")
    return [flat, bare, f"text_model_{bare}"]
