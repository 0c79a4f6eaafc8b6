"""LoRA files: reading every form diffusers reads, merging, writing diffusers' own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.training.copies import replace_parameter, shared_copy, swap
from framework.training.formats.fits import widths_of
from framework.training.formats.recognise import LORA, located
from framework.training.words import towers

logger = logging.getLogger(__name__)

FILE = "pytorch_lora_weights.safetensors"
_DOWN = (
    ".lora_A.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)
_UP = (".lora_B.weight", ".lora.up.weight", "_lora.up.weight", ".lora_linear_layer.up.weight")


def adapters(network: Any, name: str) -> dict[str, Tensor]:
    """A network's updates in diffusers' names; the factor alpha / rank is multiplied in.

    Other programs, and diffusers where the file says nothing else, take alpha = rank.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(network, adapter_name=name)
    factors = {
        path: layer.scaling[name]
        for path, layer in network.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    scaled = {}
    for key, value in state.items():
        factor = next((f for path, f in factors.items() if key == f"{path}.lora_B.weight"), 1.0)
        scaled[key] = value.detach().float().cpu() * factor
    return convert_state_dict_to_diffusers(scaled)


def write_lora(pipe: Any, file: Path, parts: Mapping[str, dict[str, Tensor]]) -> Path:
    """Write updates by diffusers' own writer, in one piece.

    Args:
        pipe: says which writer.
        file: the file.
        parts: component -> its updates.
    """
    from safetensors.torch import save

    def write(weights: dict[str, Tensor], name: str) -> None:
        plain = {key: value.contiguous() for key, value in weights.items()}
        write_atomic(Path(name), save(plain, metadata={"format": "pt"}))

    layers = {f"{name}_lora_layers": state for name, state in parts.items()}
    type(pipe).save_lora_weights(
        str(file.parent), weight_name=file.name, save_function=write, **layers
    )
    return file


def load_lora(
    pipe: Any, path: Path, name: str, *, scale: float = 1.0, merge: bool = True
) -> Callable[[], None]:
    """Add a file's updates to copies of a pipeline's networks, which take their place.

    Args:
        pipe: the pipeline.
        path: file or folder.
        name: of the adapters.
        scale: factor on the updates.
        merge: into the weights; else as adapters that diffusers' own functions see.

    Returns:
        A function that restores the pipeline.

    Raises:
        UserError: the file is missing, damaged, or made for another model.
    """
    file = located(path, LORA)
    state, alphas = _read(pipe, file)
    names = {"unet": "unet", **{t.encoder_name: t.encoder_name for t in towers(pipe)}}
    touched = [part for part in names if any(key.startswith(f"{part}.") for key in state)]
    stray = [key for key in state if key.partition(".")[0] not in names]
    if stray:
        raise UserError(
            f"{file} has updates of '{stray[0].partition('.')[0]}', which this model has not "
            f"(shape {tuple(state[stray[0]].shape)}). It was made for another family of models."
        )
    if not touched:
        raise UserError(f"{file} holds no update of the U-Net or of a text encoder.")
    for part in touched:
        _check(file, state, part, getattr(pipe, part))
    copies = {part: shared_copy(getattr(pipe, part)) for part in touched}
    wanted = [(p, p.requires_grad) for network in copies.values() for p in network.parameters()]
    adapter = _free_name(name, copies.values())
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws start values it then overwrites
            for part, network in copies.items():
                _into(pipe, part, network, state, alphas, adapter)
    except Exception as error:  # peft and diffusers raise many classes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{file} cannot be loaded as LoRA: {lines[0][:200]}") from error
    for network in copies.values():
        _scale_or_merge(network, adapter, scale, merge)
        network.requires_grad_(False).eval()
    for parameter, flag in wanted:  # the originals' own, which peft has frozen
        parameter.requires_grad_(flag)
    return swap(pipe, copies, f"LoRA '{name}'")


def _read(pipe: Any, file: Path) -> tuple[dict[str, Tensor], Any]:
    """The file in diffusers' names, and its alphas; older and kohya's forms are converted."""
    pickled = {} if file.suffix == ".safetensors" else {"use_safetensors": False}
    try:
        found = type(pipe).lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            unet_config=pipe.unet.config,
            local_files_only=True,
            **pickled,
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{file} cannot be read as LoRA weights of this family: {lines[0][:200]}"
        ) from error
    state, alphas = found[0], found[1]
    return {_with_component(key): value for key, value in state.items()}, alphas


def _with_component(key: str) -> str:
    """Oldest files have the U-Net's names without ``unet.``."""
    known = ("unet.", "text_encoder.", "text_encoder_2.", "transformer.")
    return key if key.startswith(known) else f"unet.{key}"


def _check(file: Path, state: Mapping[str, Tensor], part: str, network: nn.Module) -> None:
    """Refuse updates of layers that are not there or have another shape."""
    for key, value in state.items():
        if not key.startswith(f"{part}."):
            continue
        bare = key.removeprefix(f"{part}.")
        down = next((end for end in _DOWN if bare.endswith(end)), None)
        up = next((end for end in _UP if bare.endswith(end)), None)
        if down is None and up is None:
            continue
        layer = _layer(network, bare.removesuffix(down or up or ""))
        weight = getattr(layer, "weight", None)
        if weight is None:
            raise UserError(
                f"{file} updates the layer '{bare}' with shape {tuple(value.shape)}, which this "
                f"model's {part} ({widths_of(network)}) has not. It was made for another family "
                "of models; load that one with model.path=."
            )
        got = value.shape[1] if down else value.shape[0]
        expected = weight.shape[1] if down else weight.shape[0]
        if got != expected:
            raise UserError(
                f"{file} does not fit this model's {part}: its update of '{bare}' has shape "
                f"{tuple(value.shape)}, and the layer's weight is {tuple(weight.shape)}. It was "
                "made for another family of models; load that one with model.path=."
            )


def _layer(network: nn.Module, path: str) -> nn.Module | None:
    """A layer by its path in a LoRA file, in today's or an older spelling."""
    tries = [path, path.replace(".processor.", "."), path.replace(".processor.to_out", ".to_out.0")]
    tries.append(f"{tries[1]}.0" if tries[1].endswith("to_out") else tries[1])
    tries += [each.removeprefix("text_model.") for each in tries]
    for old, new in (("to_q_lora", "q_proj"), ("to_k_lora", "k_proj"), ("to_v_lora", "v_proj")):
        tries += [each.replace(old, new) for each in tries[:1] if old in each]
    for each in tries:
        try:
            layer = network.get_submodule(each)
        except AttributeError:
            continue
        base = getattr(layer, "get_base_layer", None)
        layer = layer if base is None else base()
        if hasattr(layer, "weight"):
            return layer
    return None


def inject(network: Any, config: Any, adapter: str) -> None:
    """Put adapters into a network by peft itself.

    transformers' own ``add_adapter`` asks for a peft newer than the newest one that is released.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, network, adapter_name=adapter)
    network.peft_config = {**getattr(network, "peft_config", {}), adapter: config}
    network._hf_peft_config_loaded = True


def _into(pipe: Any, part: str, network: Any, state: Any, alphas: Any, adapter: str) -> None:
    own = {key: value for key, value in state.items() if key.startswith(f"{part}.")}
    shared = {"adapter_name": adapter, "low_cpu_mem_usage": False}
    if part == "unet":
        type(pipe).load_lora_into_unet(own, alphas, network, **shared)
        return

    def load_adapter(
        adapter_name: str, adapter_state_dict: Any, peft_config: Any, **rest: Any
    ) -> None:
        from peft import set_peft_model_state_dict

        inject(network, peft_config, adapter_name)
        set_peft_model_state_dict(network, adapter_state_dict, adapter_name)

    network.load_adapter = load_adapter  # what diffusers calls; see :func:`inject`
    try:
        type(pipe).load_lora_into_text_encoder(own, alphas, network, prefix=part, **shared)
    finally:
        del network.load_adapter


def _scale_or_merge(network: Any, adapter: str, scale: float, merge: bool) -> None:
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in found:
        if adapter not in layer.active_adapters:
            continue
        if scale != 1.0:
            layer.set_scale(adapter, scale)
        if merge:
            # The copy shares its weights with the original, and merging writes into them.
            for name, value in list(layer.get_base_layer().named_parameters(recurse=False)):
                replace_parameter(layer.get_base_layer(), name, value.detach().clone())
            layer.merge(adapter_names=[adapter])
    if merge and not _others(found, adapter):
        recurse_remove_peft_layers(network)
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            network.__dict__.pop(attribute, None)


def _others(layers: Any, adapter: str) -> bool:
    """Whether other adapters are there, which must stay."""
    return any(set(layer.scaling) - {adapter} for layer in layers)


def _free_name(name: str, networks: Any) -> str:
    taken = {key for network in networks for key in getattr(network, "peft_config", {})}
    bare = name.replace(".", "_")
    free = bare
    while free in taken:
        free = f"{free}_2"
    return free
