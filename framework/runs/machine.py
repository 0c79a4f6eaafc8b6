"""What this machine can hold: memory, devices, and refusing what is too much for them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from framework.errors import UserError

#: Bytes a pixel takes at least while a picture is decoded: a few dozen channels of float32.
_PIXEL = 256
_GIB = 2**30
PACKAGES = ("dreammatcher", "torch", "diffusers", "transformers", "timm", "torchmetrics")


def free_memory() -> int:
    """Bytes of memory that can be had: the machine's, or what a container leaves of it."""
    found = [_meminfo()]
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    used = _number(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None:
        found.append(max(0, limit - used))
    known = [value for value in found if value is not None]
    return min(known) if known else 2**62


def cpu_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_picture_size(height: int, width: int) -> None:
    """Refuse pictures that cannot be held in memory.

    Raises:
        UserError: with the size, what it takes and what there is.
    """
    there = free_memory()
    if torch.cuda.is_available():
        there = max(there, torch.cuda.mem_get_info()[1])
    needed = height * width * _PIXEL
    if needed > there:
        raise UserError(
            f"A picture of {height} x {width} pixels takes at least {needed / _GIB:.0f} GiB; this "
            f"machine has {there / _GIB:.0f} GiB free. Lower sampler.height and sampler.width "
            "(in training personalizer.resolution)."
        )


def check_processes(option: str, count: int, kind: str, each: int) -> None:
    """Refuse more processes than there are devices, or than memory holds.

    Args:
        option: the key that asks for them.
        count: how many.
        kind: ``cpu``, ``cuda`` or ``mps``.
        each: bytes of memory one takes at least.

    Raises:
        UserError: with the number there is.
    """
    devices = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind, cpu_cores())
    if count > devices:
        raise UserError(f"{option} is {count}; this machine has {devices} of kind {kind}.")
    if kind == "cpu" and count > 1 and count * each > free_memory():
        raise UserError(
            f"{option} is {count}, which takes at least {count * each / _GIB:.1f} GiB of memory; "
            f"{free_memory() / _GIB:.1f} GiB are free. Use fewer processes."
        )


def folder_bytes(folder: Path) -> int:
    """Bytes of the weights in a model's folder; 0 for what is not there."""
    if not folder.is_dir():
        return 0
    kinds = (".safetensors", ".bin", ".pt", ".ckpt")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in kinds)


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> str:
    """What computes here, in words: the processor, its threads in use, the accelerator.

    Figures move with it: another processor, or another number of threads, changes the last bits of
    a matrix product, and a match that was near a tie may then fall the other way.
    """
    words = [f"{_processor()}, {torch.get_num_threads()} thread(s)"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name(0))
    return "; ".join([*words, f"torch {torch.__version__}"])


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        return text.split("model name")[1].split(":", 1)[1].splitlines()[0].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _meminfo() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
