"""Fingerprints: short texts that differ where results may."""

from __future__ import annotations

import hashlib
import inspect
import json
import uuid
import weakref
from typing import Any

import torch
from torch import Tensor, nn

#: What changes a module's output without being a parameter: adapters' state, FreeU's factors.
STATE = (
    "scaling", "active_adapters", "active_adapter", "disable_adapters", "merged_adapters",
    "s1", "s2", "b1", "b2", "upcast_attention", "scale", "training",
)  # fmt: skip
_SAMPLES = 16
_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()


def add_tensor(total: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Add one tensor of any shape to a running digest, with its name, type and shape."""
    total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    plain = tensor.detach().cpu().contiguous()
    if plain.numel():
        total.update(plain.view(-1).view(torch.uint8).numpy().data)


def combine(*parts: object) -> str:
    """One fingerprint of several texts and tensors, in their order."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            add_tensor(total, "", part)
        else:
            total.update(f"{part}\0".encode())
    return total.hexdigest()


def of_module(module: nn.Module) -> str:
    """Fingerprint of a network: every weight and buffer, its configuration and adapters.

    Weights are read again only if something suggests that they changed: a tensor was replaced,
    changed in place, or differs at some places looked at.
    """
    sign = (_state(module), *_sign(module))
    known = _KNOWN.get(module)
    if known is not None and known[0] == sign:
        return known[1]
    total = hashlib.sha256(sign[0].encode())
    for name, tensor in _tensors(module):
        add_tensor(total, name, tensor)
    result = total.hexdigest()
    _KNOWN[module] = (sign, result)
    return result


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _state(module: nn.Module) -> str:
    """Class, configuration, and attributes that count, of a network and its sub-modules."""
    found = [type(module).__qualname__, str(getattr(module, "config", ""))]
    for name, child in module.named_modules():
        marks = [type(child).__name__]
        for key in STATE:
            value = vars(child).get(key)
            if value is None and key.endswith(("adapters", "adapter")):
                value = getattr(child, key, None)
            if value is not None and not callable(value):
                marks.append(f"{key}={value!r}")
        processor = getattr(child, "processor", None)
        if processor is not None:
            marks.append(type(processor).__name__)
        found.append(f"{name}:{','.join(marks)}")
    return "\n".join(found)


def _sign(module: nn.Module) -> tuple[Any, ...]:
    """What nearly always changes when weights do: cheap to look at."""
    marks, looked = [], []
    for name, tensor in _tensors(module):
        marks.append((name, id(tensor), tensor.data_ptr(), tensor._version, tuple(tensor.shape)))
        if tensor.numel():
            flat = (
                tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten()
            )
            looked.append(flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].double())
    values = torch.cat(looked).cpu().numpy().tobytes() if looked else b""
    return tuple(marks), values


def of_part(part: Any, private: bool = True) -> str:
    """Fingerprint of a part: its class, the class's source, and its state.

    A part with state that cannot be looked into is equal to itself alone.

    Args:
        part: the part.
        private: whether attributes with a leading underscore count.
    """
    cls = type(part)
    sources = []
    for each in cls.__mro__:
        if each.__module__.startswith(("builtins", "abc")):
            continue
        try:
            sources.append(inspect.getsource(each))
        except (OSError, TypeError):
            sources.append(each.__qualname__)
    state = {key: value for key, value in vars(part).items() if private or key[:1] != "_"}
    try:
        described = json.dumps(state, sort_keys=True, default=_plain)
    except (TypeError, ValueError):
        described = _own_name(part)
    return combine(cls.__module__, cls.__qualname__, *sources, described)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return combine(value)
    if hasattr(value, "__dataclass_fields__"):
        return {key: getattr(value, key) for key in value.__dataclass_fields__}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    raise TypeError(type(value).__name__)


_NAMES: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _own_name(part: Any) -> str:
    return _NAMES.setdefault(part, uuid.uuid4().hex)
