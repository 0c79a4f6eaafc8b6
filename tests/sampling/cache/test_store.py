"""Stores: bounded, least recently used first out, never wrong."""

from __future__ import annotations

import logging
import os
import threading

import pytest
import torch

from framework.errors import UserError
from framework.sampling.cache import CacheConfig, DiskCache, MemoryCache, NoCache, make_cache
from framework.sampling.cache.store import size_of


def tensors(value=0.0, count=100):
    """400 bytes."""
    return {"a": torch.full((count,), float(value))}


@pytest.fixture(params=["memory", "disk"])
def make(request, tmp_path):
    if request.param == "memory":
        return MemoryCache
    return lambda max_bytes, max_entries: DiskCache(tmp_path / "cache", max_bytes, max_entries)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_what_is_put_comes_back(make, dtype):
    cache = make(10**6, 10)
    stored = {"x/y:z": torch.arange(12).reshape(3, 4).to(dtype).T, "empty": torch.empty(0, 2)}
    cache.put("key", stored, "group")
    found = cache.get("key", "group")
    assert found.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    assert cache.get("other", "group") is None


def test_a_key_put_again_is_replaced(make):
    cache = make(10**6, 10)
    cache.put("key", tensors(1))
    cache.put("key", tensors(2))
    assert cache.get("key")["a"][0] == 2


def test_the_least_recently_used_leave(make):
    cache = make(10**6, 2)
    for order, key in enumerate(("first", "second")):
        cache.put(key, tensors(), key)
        age(cache, key, order)
    assert cache.get("first", "first") is not None
    cache.put("third", tensors(), "third")
    assert cache.get("second", "second") is None
    assert cache.get("first", "first") is not None and cache.get("third", "third") is not None


def age(cache, key, order):
    """File systems differ in the resolution of times."""
    if isinstance(cache, DiskCache):
        os.utime(cache._path(key, key), (order, order))


def test_bytes_are_bounded(make):
    cache = make(3000, 100)
    for number in range(20):
        cache.put(str(number), tensors(number), str(number))
        age(cache, str(number), number)
    kept = [number for number in range(20) if cache.get(str(number), str(number)) is not None]
    assert 2 <= len(kept) <= 7 and kept[-1] == 19
    if isinstance(cache, MemoryCache):
        assert cache.bytes == sum(size_of(entry[1]) for entry in cache._entries.values()) <= 3000
    else:
        assert sum(file.stat().st_size for file in cache.folder.iterdir()) <= 3000


def test_what_is_too_large_is_not_kept(make):
    cache = make(300, 10)
    cache.put("key", tensors())
    assert cache.get("key") is None


def test_a_group_does_not_push_itself_out(make):
    """The first steps of a pass too long for the store stay, so that they are found next time."""
    cache = make(10**6, 3)
    cache.put("older", tensors(), "other")
    for step in range(10):
        cache.put(str(step), tensors(step), "pass")
    assert [cache.get(str(step), "pass") is not None for step in range(10)] == [True] * 3 + [
        False
    ] * 7
    assert cache.get("older", "other") is None


def test_memory_does_not_hold_on_to_a_larger_tensor():
    cache = MemoryCache(10**6, 10)
    cache.put("key", {"row": torch.randn(1000, 10)[3]})
    assert cache.get("key")["row"].untyped_storage().nbytes() == 40


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "header only": lambda file: file.write_bytes(file.read_bytes()[:30]),
    "a bit": lambda file: file.write_bytes(file.read_bytes()[:-5] + b"\1" + file.read_bytes()[-4:]),
    "no digest": lambda file: save_plain(file),
    "text": lambda file: file.write_text("no tensors here"),
}


def save_plain(file):
    from safetensors.torch import save_file

    save_file(tensors(1), file)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_counts_as_absent_and_is_removed(tmp_path, damage, caplog):
    cache = DiskCache(tmp_path, 10**6, 10)
    cache.put("key", tensors(1))
    (file,) = tmp_path.iterdir()
    DAMAGES[damage](file)
    with caplog.at_level(logging.WARNING):
        assert cache.get("key") is None
    assert "is damaged" in caplog.text and not file.exists()
    cache.put("key", tensors(2))
    assert cache.get("key")["a"][0] == 2


def test_files_may_be_deleted_at_any_time(tmp_path):
    cache = DiskCache(tmp_path / "cache", 10**6, 10)
    cache.put("key", tensors())
    for file in cache.folder.iterdir():
        file.unlink()
    assert cache.get("key") is None
    cache.folder.rmdir()
    assert cache.get("key") is None
    cache.put("key", tensors(3))
    assert cache.get("key")["a"][0] == 3


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file", 10**6, 10)
    with caplog.at_level(logging.WARNING):
        cache.put("one", tensors())
        cache.put("two", tensors())
    assert caplog.text.count("is not written") == 1
    assert cache.get("one") is None


def test_two_processes_share_a_folder(tmp_path):
    one, two = (DiskCache(tmp_path, 10**6, 10) for _ in range(2))
    one.put("key", tensors(4), "group")
    assert two.get("key", "group")["a"][0] == 4


def test_writers_and_readers_at_once_never_see_half_a_file(tmp_path, caplog):
    def work(cache):
        for number in range(15):
            cache.put("key", tensors(number), "group")
            found = cache.get("key", "group")
            assert found is None or len(set(found["a"].tolist())) == 1

    caches = [DiskCache(tmp_path, 10**6, 10) for _ in range(3)]
    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "damaged" not in caplog.text
    assert len(list(tmp_path.iterdir())) == 1


def test_the_configured_cache(tmp_path, monkeypatch):
    assert isinstance(make_cache(CacheConfig(where="none")), NoCache)
    assert make_cache() is make_cache(CacheConfig())
    given = make_cache(CacheConfig(where="disk", folder=str(tmp_path)))
    assert given.folder == tmp_path and given.max_bytes == 2e9
    monkeypatch.setenv("DREAMMATCHER_CACHE", str(tmp_path / "there"))
    assert make_cache(CacheConfig(where="disk")).folder == tmp_path / "there"
    with pytest.raises(UserError, match="where is 'disc'; expected one of .*Did you mean 'disk'"):
        CacheConfig(where="disc")
    with pytest.raises(UserError, match="max_gigabytes is -1"):
        CacheConfig(max_gigabytes=-1)
