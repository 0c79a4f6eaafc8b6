"""Low-rank adapters as peft keeps them in a network: put in, filled, and read out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.training.formats.updates import Update


def adapters(network: Any, name: str) -> dict[str, Tensor]:
    """A network's updates in diffusers' names; the factor alpha / rank is multiplied in.

    Other programs, and diffusers where the file says nothing else, take alpha = rank.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(network, adapter_name=name)
    layers = {
        path: layer for path, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    factors = {path: getattr(layer, "scaling")[name] for path, layer in layers.items()}  # noqa: B009 - each kind of layer has its own
    scaled = {}
    for key, value in state.items():
        factor = next((f for path, f in factors.items() if key == f"{path}.lora_B.weight"), 1.0)
        scaled[key] = value.detach().float().cpu() * factor
    return convert_state_dict_to_diffusers(scaled)


def inject(network: Any, config: Any, adapter: str) -> None:
    """Put adapters into a network by peft itself.

    transformers' own ``add_adapter`` asks for a peft newer than the newest one that is released.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, network, adapter_name=adapter)
    network.peft_config = {**getattr(network, "peft_config", {}), adapter: config}
    network._hf_peft_config_loaded = True


def attach(
    file: Path, network: Any, updates: Mapping[str, Update], name: str, scale: float
) -> None:
    """Put plain LoRA into a network as adapters; the parameters' flags stay as they are.

    Args:
        file: where they are from, for messages.
        network: a copy that shares its parameters.
        updates: by the layers' paths.
        name: of the adapter.
        scale: factor on it.

    Raises:
        UserError: an update is more than LoRA, or does not fit its layer.
    """
    from peft import LoraConfig

    odd = [path for path, update in updates.items() if not update.plain()]
    if odd:
        raise UserError(
            f"{file} holds more than plain LoRA (for '{odd[0]}'), which cannot be kept apart as an "
            "adapter; use personalizer.merge=true."
        )
    ranks = {f"^{re.escape(path)}": update.rank() for path, update in updates.items()}
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=list(updates),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        lora_bias=any("up_bias" in update.parts for update in updates.values()),
        init_lora_weights=False,
    )
    adapter = _free_name(name, network)
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws start values, overwritten below
            inject(network, config, adapter)
        for path, update in updates.items():
            _fill(network.get_submodule(path), adapter, update, scale)
    except Exception as error:  # peft raises many classes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{file} cannot be loaded as LoRA: {lines[0][:200]}") from error
    finally:
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        for parameter, flag in flags:  # the originals' own
            parameter.requires_grad_(flag)


def _fill(layer: Any, adapter: str, update: Update, scale: float) -> None:
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    parts = update.parts
    with torch.no_grad():
        down.weight.copy_(parts["down_weight"].reshape(down.weight.shape))
        up.weight.copy_(parts["up_weight"].float().reshape(up.weight.shape) * update.factor)
        if up.bias is not None:
            bias = parts.get("up_bias")
            up.bias.zero_() if bias is None else up.bias.copy_(bias.float() * update.factor)
    layer.set_scale(adapter, scale)
    layer.eval()


def _free_name(name: str, network: Any) -> str:
    taken = set(getattr(network, "peft_config", {}))
    free = bare = name.replace(".", "_")
    count = 1
    while free in taken:
        count += 1
        free = f"{bare}_{count}"
    return free
