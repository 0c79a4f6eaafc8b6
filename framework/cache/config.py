"""Options of the cache, and the cache they describe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from framework.cache.store import Cache, DiskCache, MemoryCache, NoCache
from framework.options import PartConfig, option

#: Environment variable that names the folder of the disk cache.
VARIABLE = "DREAMMATCHER_CACHE"


@dataclass
class CacheConfig(PartConfig):
    """Where the reference branch's results are kept; results do not depend on it."""

    where: str = option(
        "memory", "memory of this process, disk, or off", choices=("memory", "disk", "off")
    )
    folder: str | None = option(
        None, f"folder of the disk cache; null: ${VARIABLE}, or .cache/dreammatcher at home"
    )
    max_gigabytes: float = option(2.0, "bound of all entries together", low=0.0)
    max_entries: int = option(20000, "bound of their number (one a step and reference)", low=1)


def make_cache(config: CacheConfig | None = None) -> Cache:
    """The cache that options describe; equal options share one in this process."""
    config = config or CacheConfig()
    size = int(config.max_gigabytes * 1e9)
    if config.where == "off":
        return NoCache()
    if config.where == "memory":
        return _memory(size, config.max_entries)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreammatcher"
    folder = config.folder or os.environ.get(VARIABLE) or home
    return DiskCache(Path(folder).expanduser(), size, config.max_entries)


@lru_cache(maxsize=1)
def _memory(max_bytes: int, max_entries: int) -> MemoryCache:
    return MemoryCache(max_bytes, max_entries)
