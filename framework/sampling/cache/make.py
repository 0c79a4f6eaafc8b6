"""The cache that options describe."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from framework.config.cache import VARIABLE, CacheConfig
from framework.sampling.cache.store import Cache, DiskCache, MemoryCache, NoCache


def make_cache(config: CacheConfig | None = None) -> Cache:
    """The cache that options describe; equal options share one in this process."""
    config = config or CacheConfig()
    size = int(config.max_gigabytes * 1e9)
    if config.where == "none":
        return NoCache()
    if config.where == "memory":
        return _memory(size, config.max_entries)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreammatcher"
    folder = config.folder or os.environ.get(VARIABLE) or home
    return DiskCache(Path(folder).expanduser(), size, config.max_entries)


@lru_cache(maxsize=1)
def _memory(max_bytes: int, max_entries: int) -> MemoryCache:
    return MemoryCache(max_bytes, max_entries)
