"""What LoRA files say outside their tensors: alphas, ranks and whatever else changes the sum."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.training.formats.names import Place
from framework.training.formats.reading import read_metadata

logger = logging.getLogger(__name__)

METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
#: Entries that are used, and entries that say how it was trained or are only notes.
_USED = {"r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type"}
_NOTES = {
    "use_dora",
    "lora_bias",
    "target_modules",
    "exclude_modules",
    "lora_dropout",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "module_dropout",
    "rank_dropout",
    "rank_dropout_scale",
    "decompose_both",
    "decompose_factor",
    "use_effective_conv2d",
    "init_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "megatron_config",
}
#: Ways to begin a training that change the model's own weights, too.
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
#: Plain entries of metadata that programs write and diffusers leaves alone.
_STRENGTHS = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")


@dataclass(frozen=True)
class Settings:
    """Strengths by network.

    Attributes:
        source: the file, for messages.
        configs: component -> peft's settings of its updates; "" is for any.
        notes: further metadata.
    """

    source: Path
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def factor(self, place: Place, rank: int) -> float | None:
        """alpha / rank of one layer as the settings say it; None if they say nothing.

        Raises:
            UserError: the rank they give is another.
        """
        config = self.configs.get(place.component, self.configs.get(""))
        if not config:
            return None
        said = _of(config.get("rank_pattern"), place, config.get("r"))
        if said is not None and int(said) != rank:
            raise UserError(
                f"{self.source} contradicts itself: its settings give rank {said} for "
                f"'{place.path}', and its tensors have rank {rank}. Give an intact copy."
            )
        default = config.get("lora_alpha", config.get("alpha"))
        alpha = _of(config.get("alpha_pattern"), place, default)
        if alpha is None:
            return None
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def warn_unused(self, rank: int) -> None:
        """Say which strength in the notes is not used, where no tensor and no setting gives one."""
        for key in _STRENGTHS:
            value = _number(self.notes.get(key))
            if value is not None and value != rank:
                logger.warning(
                    "%s notes %s = %g for rank %d but has no such entry beside its tensors; as in "
                    "diffusers its updates are taken as they stand. personalizer.scale=%g would "
                    "apply that factor.",
                    self.source,
                    key,
                    value,
                    rank,
                    value / rank,
                )
                return


def read_settings(file: Path, prefixed: bool) -> Settings:
    """Settings in a file's metadata, or in peft's configuration beside it.

    Args:
        file: the weights.
        prefixed: whether its names are peft's own, which have their settings beside them.

    Raises:
        UserError: the settings cannot be read, or ask for what is not done here.
    """
    notes = read_metadata(file)
    configs: dict[str, dict[str, Any]] = {}
    if notes.get(METADATA):
        for key, value in _mapping(file, notes[METADATA]).items():
            component, dot, name = key.partition(".")
            component, name = (component, name) if dot else ("", key)
            configs.setdefault(component, {})[name] = value
    beside = file.parent / PEFT_CONFIG
    if prefixed and beside.is_file():
        configs[""] = _mapping(beside, beside.read_text(encoding="utf-8", errors="replace"))
    elif prefixed and not configs:
        logger.warning(
            "%s has no %s beside it, where peft keeps the strength; alpha is taken as the rank.",
            file,
            PEFT_CONFIG,
        )
    for config in configs.values():
        _check(file, config)
    return Settings(file, configs, notes)


def _mapping(source: Path, text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise UserError(f"The settings in {source} are no JSON: {error}.") from error
    if not isinstance(said, dict):
        raise UserError(f"The settings in {source} are a {type(said).__name__}, not a mapping.")
    return said


def _check(file: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2]
    if kind not in ("LORA", "LOHA", "LOKR"):
        raise UserError(f"{file} holds {kind} updates; LORA, LOHA and LOKR of peft are read.")
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGING):
        raise UserError(
            f"{file} was trained from init_lora_weights={start}, which changes the model's own "
            "weights first, so its updates do not fit the plain model. Convert it with peft "
            "(path_initial_model_for_weight_conversion) to a plain LoRA."
        )
    if config.get("bias") not in (None, "none"):
        raise UserError(
            f"{file} trained the model's biases (bias={config['bias']}), not read here."
        )
    known = _USED | _NOTES | {"bias", "init_lora_weights"}
    for key, value in config.items():
        if key not in known and value not in (None, False, [], {}, ""):
            raise UserError(
                f"The settings of {file} have {key}={value!r}, which changes what the updates do "
                "and is not done here. Merge it into a checkpoint with the program that wrote it."
            )


def _of(pattern: Any, place: Place, default: Any) -> Any:
    """The entry whose key ends a layer's path, as peft reads such patterns."""
    for key, value in dict(pattern or {}).items():
        for path in (place.path, f"text_model.{place.path}"):
            if re.match(rf"(.*\.)?({key})$", path):
                return value
    return default


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
