"""LoRA and its relatives: reading every program's files, adding them, writing diffusers' own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from framework.errors import UserError
from framework.runs.atomic import write_atomic
from framework.training.copies import replace_parameter, shared_copy, swap
from framework.training.formats.adapters import attach
from framework.training.formats.fits import widths_of
from framework.training.formats.kinds import inner_state
from framework.training.formats.names import LayerNames, Place, base_layer, split_key
from framework.training.formats.reading import check_values, read_weights
from framework.training.formats.recognise import NETWORKS
from framework.training.formats.settings import Settings, read_settings
from framework.training.formats.updates import Update, bias_change, updated

logger = logging.getLogger(__name__)

FILE = "pytorch_lora_weights.safetensors"
#: How entries of words begin that programs put into a LoRA file.
BUNDLED = "bundle_emb."

Updates = dict[Place, Update]


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
    pipe: Any, file: Path, name: str, *, scale: float = 1.0, merge: bool = True
) -> Callable[[], None]:
    """Add a file's updates to copies of a pipeline's networks, which take their place.

    Args:
        pipe: the pipeline.
        file: LoRA, LoHa, LoKr or DoRA by any program.
        name: of the adapters.
        scale: factor on the updates.
        merge: into the weights; else, for plain LoRA, as adapters diffusers' own functions see.

    Returns:
        A function that restores the pipeline.

    Raises:
        UserError: the file is missing, damaged, made for another model, or has an entry that
            nothing here uses.
    """
    updates = read_updates(pipe, file)
    touched = sorted({place.component for place in updates})
    copies = {part: shared_copy(getattr(pipe, part)).eval() for part in touched}
    if merge:
        for place, update in updates.items():
            _merge(file, copies[place.component], place, update, scale)
    else:
        for part, network in copies.items():
            own = {place.path: each for place, each in updates.items() if place.component == part}
            attach(file, network, own, name, scale)
    return swap(pipe, copies, f"LoRA '{name}'")


def read_updates(pipe: Any, file: Path) -> Updates:
    """The updates of a file by the layers of this pipeline; every entry is used or refused.

    Raises:
        UserError: see :func:`load_lora`.
    """
    content = read_weights(file)
    state = inner_state(content) if isinstance(content, Mapping) else {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    tensors = {key: each for key, each in tensors.items() if not key.startswith(BUNDLED)}
    if not tensors:
        raise UserError(f"{file} holds no update of the U-Net or of a text encoder.")
    check_values(file, tensors)
    prefixed = any(key.startswith("base_model.model.") for key in tensors)
    hint = file.parent.name if prefixed and file.parent.name in NETWORKS else None
    updates = _placed(file, LayerNames(pipe, hint), tensors, pipe)
    _check_used(file, updates)
    _set_factors(file, updates, read_settings(file, prefixed))
    count = {
        part: sum(place.component == part for place in updates)
        for part in sorted({place.component for place in updates})
    }
    layers = " and ".join(f"{number} layer(s) of {part}" for part, number in count.items())
    used = sum(len(update.parts) for update in updates.values())
    logger.info("Used %d of %d entries of %s: %s.", used, len(tensors), file, layers)
    return updates


def _placed(file: Path, names: LayerNames, tensors: Mapping[str, Tensor], pipe: Any) -> Updates:
    """Entries sorted into layers; an entry without a place is refused."""
    updates: Updates = {}
    known: dict[str, Place | None] = {}
    for key, value in tensors.items():
        parted = split_key(key)
        if parted is None:
            raise UserError(
                f"{file} has the entry '{key}' {tuple(value.shape)}, which is no part of a LoRA, "
                "LoHa, LoKr or DoRA update that is known; nothing of the file was used. Merge it "
                "into a checkpoint with the program that wrote it."
            )
        name, part = parted
        if name not in known:
            known[name] = names.find(name)
        place = known[name]
        if place is None:
            raise _stranger(file, names, name, value, pipe)
        update = updates.setdefault(place, Update())
        if part in update.parts:
            raise UserError(
                f"{file} updates '{place.path}' twice, as '{update.keys[part]}' and as '{key}'; "
                "give a file with one of them."
            )
        update.parts[part], update.keys[part] = value, key
    return updates


def _stranger(file: Path, names: LayerNames, name: str, value: Tensor, pipe: Any) -> UserError:
    part = names.component_of(name) or "unet"
    network = getattr(pipe, part, None)
    if part not in names.tables or network is None:
        return UserError(
            f"{file} has updates of '{part}', which this model has not (shape "
            f"{tuple(value.shape)}). It was made for another family of models."
        )
    return UserError(
        f"{file} updates the layer '{name}' with shape {tuple(value.shape)}, which this model's "
        f"{part} ({widths_of(network)}) has not. It was made for another family of models; load "
        "that one with model.path=."
    )


def _check_used(file: Path, updates: Updates) -> None:
    """Refuse entries that are no whole update; alphas alone say nothing and are refused, too."""
    left = [key for update in updates.values() for key in update.unused()]
    if left:
        total = sum(len(update.parts) for update in updates.values())
        shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        raise UserError(
            f"{file} has {len(left)} of {total} entries that are no whole update ({shown}); half "
            "of a pair is missing, or they belong to a method that is not known. Give an intact "
            "copy, or merge it with the program that wrote it."
        )


def _set_factors(file: Path, updates: Updates, settings: Settings) -> None:
    """alpha / rank of every update: from its own entry, the settings, or 1."""
    ranks = []
    for place, update in updates.items():
        rank = update.rank()
        said = settings.factor(place, rank) if rank is not None else None
        own = None
        if "alpha" in update.parts and rank is not None:
            if update.parts["alpha"].numel() != 1:
                raise UserError(f"{file}: '{update.keys['alpha']}' is no single number.")
            own = float(update.parts["alpha"]) / rank
        if own is not None and said is not None and abs(own - said) > 1e-6:
            raise UserError(
                f"{file} contradicts itself: '{update.keys['alpha']}' gives the factor {own:g}, "
                f"its settings {said:g}. Give a file that says one of them."
            )
        full = {"lokr_w1", "lokr_w2"} <= set(update.parts)
        update.factor = said if said is not None else own if own is not None and not full else 1.0
        if own is None and said is None and rank is not None:
            ranks.append(rank)
    if ranks:
        settings.warn_unused(ranks[0])


def _merge(file: Path, network: nn.Module, place: Place, update: Update, scale: float) -> None:
    """Give one layer of a copy new weights; the original's own are left alone."""
    layer = base_layer(network.get_submodule(place.path))
    weight: Tensor = layer.weight.detach()  # type: ignore[union-attr,operator,assignment]
    try:
        new = updated(weight, update, scale)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _misfit(file, place, update, weight, network) from error
    flag = bool(layer.weight.requires_grad)  # type: ignore[union-attr]
    if new is not None:
        replace_parameter(layer, "weight", new.to(weight)).requires_grad_(flag)
    change = bias_change(update)
    if change is None:
        return
    old = getattr(layer, "bias", None)
    if change.numel() != len(weight):
        raise _misfit(file, place, update, weight, network)
    change = scale * change.reshape(-1).to(weight.device)
    value = change if old is None else old.detach().float() + change
    replace_parameter(layer, "bias", value.to(weight.dtype)).requires_grad_(flag)


def _misfit(
    file: Path, place: Place, update: Update, weight: Tensor, network: nn.Module
) -> UserError:
    shapes = ", ".join(
        f"'{key}' {tuple(update.parts[part].shape)}"
        for part, key in update.keys.items()
        if part != "alpha"
    )
    return UserError(
        f"{file} does not fit this model's {place.component} ({widths_of(network)}): {shapes} "
        f"make no update of '{place.path}', whose weight is {tuple(weight.shape)}. It was made for "
        "another family of models; load that one with model.path=."
    )
