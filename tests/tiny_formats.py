"""What tests of formats share: random updates in the names of many programs, stock pipelines."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import torch
from tiny import tiny_sd, tiny_sdxl
from tiny_personal import make_concept

from framework.interfaces import PERSONALIZERS
from framework.training.formats.recognise import recognise

ATTENTION = ("attn1.to_q", "attn2.to_k")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@cache
def _saved(xl):
    return tiny_sdxl(sample_size=16) if xl else tiny_sd(sample_size=16)


def stock(xl=False):
    """A pipeline of its own, its weights always the same; built once, copied."""
    made = _saved(xl)
    parts = {name: copy.deepcopy(part) for name, part in made.components.items()}
    pipe = type(made)(**parts, **({} if xl else {"requires_safety_checker": False}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(*shape, scale=0.3, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def load(pipe, path, placeholder="toy", **options):
    """Load a file by the personalizer that its content asks for."""
    kind = recognise(Path(path)).kind
    concept = make_concept(placeholder=placeholder)
    return PERSONALIZERS.get(kind)(**options).load(pipe, Path(path), concept)


def layers(network, ends=ATTENTION):
    return {path: layer for path, layer in network.named_modules() if path.endswith(ends)}


def pairs(network, ends=ATTENTION, rank=4, seed=0):
    """Random (down, up) of some layers by their paths."""
    found = {}
    for place, (path, layer) in enumerate(layers(network, ends).items()):
        down = noise(rank, layer.in_features, seed=seed + 2 * place)
        found[path] = down, noise(layer.out_features, rank, seed=seed + 2 * place + 1)
    return found


def kohya(network, head, ends=ATTENTION, alpha=1.0, rank=4, text=False, seed=0):
    """(state, {path: change}) in the names of kohya's program."""
    state, changes = {}, {}
    for path, (down, up) in pairs(network, ends, rank, seed).items():
        bare = path.removeprefix("text_model.").replace(".", "_")
        key = f"{head}{'text_model_' if text else ''}{bare}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            state[f"{key}.alpha"] = torch.tensor(alpha)
        changes[path] = up @ down * (1.0 if alpha is None else alpha / rank)
    return state, changes


def weight(pipe, path, part="unet"):
    layer = getattr(pipe, part).get_submodule(path)
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return base.weight.detach()


def gap(first, second):
    return float((first - second).detach().abs().max())


def off_by(pipe, changes, part="unet", xl=False):
    """The largest distance of a pipeline's weights from the plain ones with some changes."""
    plain = getattr(_saved(xl), part).state_dict()
    touched = {f"{path}.weight" for path in changes}
    worst = 0.0
    for name, value in getattr(pipe, part).state_dict().items():
        path = name.removesuffix(".weight")
        old = plain[name]
        if name in touched:
            old = old + changes[path].reshape(old.shape)
        worst = max(worst, gap(value, old))
    return worst


def seen(pipe, prompt="a photo of a duck"):
    """What cross-attention sees of a prompt."""
    with torch.no_grad():
        return pipe.encode_prompt(
            prompt=prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
