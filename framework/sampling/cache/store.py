"""Stores of named tensors under a key: process memory, or a folder of safetensors files.

A store may forget anything at any time; who reads from it can make the same again. Tensors put in
or taken out are shared, not copied: nobody changes them in place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save_file
from torch import Tensor

from framework.errors import UserError
from framework.runs.atomic import atomic_path
from framework.runs.fingerprint import add_tensor

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]
#: Changes when the meaning of stored tensors does; older files are then not found.
VERSION = "1"
_RESCAN = 64


def size_of(tensors: Tensors) -> int:
    """Bytes of the values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class Cache(ABC):
    """Named tensors by key, bounded in bytes and entries; the least recently used leave first.

    An entry belongs to a group and is asked for with it. Entries of one group never push each other
    out: a pass of many steps that does not fit as a whole keeps its first steps instead of chasing
    itself through the store.
    """

    enabled = True

    @abstractmethod
    def get(self, key: str, group: str = "") -> dict[str, Tensor] | None:
        """The tensors stored under a key, on the CPU; None if there are none (any more)."""

    @abstractmethod
    def put(self, key: str, tensors: Tensors, group: str = "") -> None:
        """Store tensors if there is room for them."""


class NoCache(Cache):
    """Keeps nothing."""

    enabled = False

    def get(self, key: str, group: str = "") -> None:
        """Nothing."""
        return

    def put(self, key: str, tensors: Tensors, group: str = "") -> None:
        """Forget it at once."""


class MemoryCache(Cache):
    """In this process's memory, on the CPU.

    Args:
        max_bytes: of all tensors together.
        max_entries: number of keys.
    """

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self._entries: OrderedDict[str, tuple[str, dict[str, Tensor]]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, group: str = "") -> dict[str, Tensor] | None:
        """See :meth:`Cache.get`."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return dict(self._entries[key][1])

    def put(self, key: str, tensors: Tensors, group: str = "") -> None:
        """See :meth:`Cache.put`."""
        self._drop(key)
        size = size_of(tensors)
        leaving = _leaving(
            [(name, kind, size_of(held)) for name, (kind, held) in self._entries.items()],
            group,
            self.bytes + size - self.max_bytes,
            len(self._entries) + 1 - self.max_entries,
        )
        if leaving is None:
            return
        for name in leaving:
            self._drop(name)
        held = {name: _compact(tensor) for name, tensor in tensors.items()}
        self._entries[key] = (group, held)
        self.bytes += size

    def _drop(self, key: str) -> None:
        if key in self._entries:
            self.bytes -= size_of(self._entries.pop(key)[1])


def _compact(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, not holding on to a larger one it is a part of."""
    tensor = tensor.detach().cpu()
    held = tensor.untyped_storage().nbytes()
    return tensor.clone() if held > tensor.numel() * tensor.element_size() else tensor


def _leaving(
    entries: list[tuple[str, str, int]], group: str, over_bytes: int, over_entries: int
) -> list[str] | None:
    """Which entries make room: the oldest of other groups.

    Args:
        entries: (key, group, bytes), least recently used first.
        group: of the newcomer, whose entries stay.
        over_bytes: how many bytes too many there would be.
        over_entries: how many entries too many.

    Returns:
        Keys to drop; None if the newcomer does not fit even so.
    """
    leaving = []
    for key, kind, size in entries:
        if over_bytes <= 0 and over_entries <= 0:
            break
        if kind == group and group:
            continue
        leaving.append(key)
        over_bytes -= size
        over_entries -= 1
    return leaving if over_bytes <= 0 and over_entries <= 0 else None


class DiskCache(Cache):
    """In a folder that any number of processes may share; every file may be deleted at any time.

    A file is written beside its place and moved into it. It carries a digest of its tensors; one
    that is truncated or altered is removed and counts as absent. What cannot be written (a full
    disk, no permission) is not kept, and said once.

    Args:
        folder: created when first written to.
        max_bytes: of all files together.
        max_entries: number of files.
    """

    def __init__(self, folder: str | Path, max_bytes: int, max_entries: int) -> None:
        self.folder = Path(folder)
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self._known: tuple[int, int] | None = None  # bytes and files, as last seen
        self._writes = 0
        self._complained = False

    def _path(self, key: str, group: str) -> Path:
        return self.folder / f"{_name(group)}-{_name(key)}.safetensors"

    def get(self, key: str, group: str = "") -> dict[str, Tensor] | None:
        """See :meth:`Cache.get`."""
        path = self._path(key, group)
        if not path.is_file():
            return None
        try:
            tensors, noted = _read(path)
            if noted != digest(tensors):
                raise ValueError("its content is not what was written")
            os.utime(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file fails in many ways, all mean the same here
            logger.warning("Cache entry %s is damaged (%s); it is made again.", path.name, error)
            _remove(path)
            self._known = None
            return None
        return tensors

    def put(self, key: str, tensors: Tensors, group: str = "") -> None:
        """See :meth:`Cache.put`."""
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        size = size_of(held)
        try:
            if not self._make_room(group, size):
                return
            with atomic_path(self._path(key, group)) as temporary:
                save_file(held, temporary, metadata={"digest": digest(held)})
        except (UserError, OSError) as error:
            if not self._complained:
                logger.warning("The cache in %s is not written: %s", self.folder, error)
            self._complained = True
            return
        if self._known is not None:
            self._known = (self._known[0] + size, self._known[1] + 1)

    def _make_room(self, group: str, size: int) -> bool:
        """Remove old files for a newcomer; whether it fits."""
        self._writes += 1
        if self._known is None or self._writes % _RESCAN == 0:
            files = self._files()
            self._known = (sum(file[2] for file in files), len(files))
        over = self._known[0] + size - self.max_bytes, self._known[1] + 1 - self.max_entries
        if max(over) <= 0:
            return True
        files = self._files()
        total = sum(file[2] for file in files)
        leaving = _leaving(
            files, _name(group), total + size - self.max_bytes, len(files) + 1 - self.max_entries
        )
        for name in leaving or []:
            _remove(self.folder / name)
        self._known = None
        return leaving is not None

    def _files(self) -> list[tuple[str, str, int]]:
        """Name, group and bytes of every file, least recently used first."""
        found = []
        for path in self.folder.glob("*-*.safetensors"):
            if path.name.startswith("."):
                continue  # being written
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime_ns, path.name, path.name.split("-")[0], status.st_size))
        return [(name, group, size) for _, name, group, size in sorted(found)]


def _name(text: str) -> str:
    """A short name that is fit for a file, one for each text (and version of the format)."""
    return hashlib.sha256(f"{VERSION}:{text}".encode()).hexdigest()[:32]


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a safetensors file and the digest noted in its header.

    One read: ``safe_open`` opens the path once for the header and once for the values, between
    which another process may have put a new file in its place.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return load(content), header.get("__metadata__", {}).get("digest")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("Cache entry %s cannot be removed: %s", path, error)


def digest(tensors: Tensors) -> str:
    """A digest of names, types, shapes and values."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        add_tensor(total, name, tensors[name])
    return total.hexdigest()
