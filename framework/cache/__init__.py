"""Keeping what the reference branch computes: in memory or on disk, bounded, safe to delete."""

from framework.cache.config import CacheConfig, make_cache
from framework.cache.store import Cache, DiskCache, MemoryCache, NoCache

__all__ = ["Cache", "CacheConfig", "DiskCache", "MemoryCache", "NoCache", "make_cache"]
