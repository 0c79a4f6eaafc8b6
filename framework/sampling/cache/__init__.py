"""Keeping what the reference branch computes: in memory or on disk, bounded, safe to delete."""

from framework.config.cache import CacheConfig
from framework.sampling.cache.make import make_cache
from framework.sampling.cache.store import Cache, DiskCache, MemoryCache, NoCache

__all__ = ["Cache", "CacheConfig", "DiskCache", "MemoryCache", "NoCache", "make_cache"]
