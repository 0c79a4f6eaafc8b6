"""What an update of a layer is worth: LoRA, LoHa, LoKr, their Tucker forms, DoRA, and norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Shape = tuple[int, ...]
#: The least parts of each kind of update, all of which must be there.
_WHOLE = (
    {"down_weight", "up_weight"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    {"lokr_w1", "lokr_w2"},
    {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
    {"diff"},
    {"diff_b"},
    {"w_norm"},
    {"b_norm"},
)
_EXTRA = {
    "down_weight": {"mid_weight", "up_bias", "alpha", "dora_scale", "magnitude_vector"},
    "hada_w1_a": {"hada_t1", "hada_t2", "alpha", "dora_scale"},
    "lokr": {"lokr_t2", "alpha", "dora_scale"},
    "diff": {"diff_b", "alpha"},
    "w_norm": {"b_norm", "alpha"},
}


@dataclass
class Update:
    """The parts of one layer's update.

    Attributes:
        parts: tensors by what they are (``down_weight``, ``up_weight``, ``alpha``, ...).
        keys: the file's name of each part.
        factor: what the sum is multiplied by, alpha / rank.
    """

    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0

    def rank(self) -> int | None:
        """The rank; None of an update that has none (norms, full Kronecker factors)."""
        for name, axis in (
            ("down_weight", 0),
            ("hada_w1_b", 0),
            ("lokr_w2_b", 0),
            ("lokr_w1_b", 0),
        ):
            if name in self.parts:
                return int(self.parts[name].shape[axis])
        return None

    def plain(self) -> bool:
        """Whether it is LoRA and nothing more than weights and a bias."""
        return set(self.parts) <= {"down_weight", "up_weight", "up_bias", "alpha"}

    def unused(self) -> list[str]:
        """Keys of parts that belong to no whole update; an alpha counts with any."""
        names = set(self.parts)
        whole = [parts for parts in _WHOLE if parts <= names]
        used = set().union(*whole)
        for kind, extra in _EXTRA.items():
            if any(name.startswith(kind) for name in used):
                used |= extra
        return [self.keys[name] for name in self.parts if name not in used]


def weight_change(update: Update, shape: Shape) -> Tensor | None:
    """What is added to a weight (O, I, ...) before its magnitude is set, float32 of ``shape``.

    Raises:
        ValueError: the parts do not make up such a weight.
    """
    parts = {name: value.float() for name, value in update.parts.items()}
    if "down_weight" in parts:
        change = low_rank(parts["down_weight"], parts["up_weight"], parts.get("mid_weight"))
    elif "hada_w1_a" in parts:
        change = hadamard(parts)
        if change.ndim < len(shape) and tuple(change.shape) == (shape[0], math.prod(shape[1:])):
            change = change.reshape(shape)  # LyCORIS keeps a convolution's window beside its input
    elif any(name.startswith("lokr_w") for name in parts):
        change = kronecker(parts, shape)
    elif "diff" in parts or "w_norm" in parts:
        return _shaped(parts["diff" if "diff" in parts else "w_norm"], shape)
    else:
        return None
    return _shaped(change, shape) * update.factor


def bias_change(update: Update) -> Tensor | None:
    """What is added to a bias, float32 (out,)."""
    if "up_bias" in update.parts:
        return update.parts["up_bias"].float() * update.factor
    for name in ("diff_b", "b_norm"):
        if name in update.parts:
            return update.parts[name].float()
    return None


def updated(weight: Tensor, update: Update, scale: float) -> Tensor | None:
    """A weight (O, I, ...) with an update, float32; None if the update leaves it alone.

    Args:
        weight: the old one.
        update: the update.
        scale: 0 gives the weight itself, 1 the whole update, between them a mixture.
    """
    change = weight_change(update, tuple(weight.shape))
    if change is None:
        return None
    old = weight.detach().float()
    if "magnitude_vector" in update.parts:
        change = with_rows(old + change, update.parts["magnitude_vector"].float()) - old
    elif "dora_scale" in update.parts:
        change = with_magnitude(old + change, update.parts["dora_scale"].float()) - old
    return old + scale * change


def low_rank(down: Tensor, up: Tensor, mid: Tensor | None = None) -> Tensor:
    """up x down, (O, I, ...); with a Tucker core ``mid`` (R, R, h, w) between them.

    Args:
        down: (R, I, ...).
        up: (O, R, ...).
        mid: the core, or None.
    """
    rank = down.shape[0]
    if mid is None:
        product = up.reshape(len(up), -1) @ down.reshape(rank, -1)
        return product.reshape(len(up), *down.shape[1:])
    outer, inner = up.reshape(len(up), -1), down.reshape(rank, -1)
    return torch.einsum("ijkl,oi,jn->onkl", mid, outer, inner)


def hadamard(parts: Mapping[str, Tensor]) -> Tensor:
    """LoHa: the elementwise product of two low-rank weights, (out, in) or (out, in, h, w)."""
    factors = []
    for index in (1, 2):
        first, second = parts[f"hada_w{index}_a"], parts[f"hada_w{index}_b"]
        core = parts.get(f"hada_t{index}")
        factors.append(first @ second if core is None else tucker(core, first, second))
    return factors[0] * factors[1]


def kronecker(parts: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """LoKr: the Kronecker product of a small and a large factor, (out, in) or (out, in, h, w)."""
    small = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        large = parts["lokr_w2"]
    elif "lokr_t2" in parts:
        large = tucker(parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    else:
        large = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        if len(shape) == 4 and large.ndim == 2:
            large = large.reshape(len(large), -1, *shape[2:])
    while small.ndim < large.ndim:
        small = small[..., None]
    return torch.kron(small, large)


def tucker(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """(R, R, h, w) with (R, O) and (R, I) -> (O, I, h, w)."""
    return torch.einsum("ij...,io,jn->on...", core, outer, inner)


def with_rows(weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: every output's weights of (O, I, ...) at the length ``magnitude`` (O,) gives."""
    flat = weight.reshape(len(weight), -1)
    return (magnitude.reshape(-1, 1) * flat / flat.norm(dim=1, keepdim=True)).reshape(weight.shape)


def with_magnitude(weight: Tensor, scale: Tensor) -> Tensor:
    """LyCORIS's DoRA: lengths along the axis on which ``scale`` has one entry each.

    Args:
        weight: (O, I, ...).
        scale: (O, 1, ...) or (1, I, ...).

    Raises:
        ValueError: it is neither.
    """
    rest = (1,) * (weight.ndim - 2)
    tiny = torch.finfo(weight.dtype).eps
    if tuple(scale.shape) == (1, weight.shape[1], *rest):
        axes = (0, *range(2, weight.ndim))
    elif tuple(scale.shape) == (weight.shape[0], 1, *rest):
        axes = tuple(range(1, weight.ndim))
    else:
        raise ValueError(f"dora_scale has shape {tuple(scale.shape)}")
    return weight * scale / (weight.norm(dim=axes, keepdim=True) + tiny)


def _shaped(change: Tensor, shape: Shape) -> Tensor:
    if tuple(change.shape) != tuple(shape):
        squeezed = tuple(n for n in change.shape if n != 1) == tuple(n for n in shape if n != 1)
        if not squeezed:
            raise ValueError(f"its update has shape {tuple(change.shape)}")
    return change.reshape(shape)
