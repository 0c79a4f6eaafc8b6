from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from framework.errors import UserError
from framework.runs.atomic import atomic_path, write_atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"abc", "abc", lambda file: file.write_bytes(b"abc")])
def test_writes_bytes_text_and_by_function(tmp_path, content):
    target = write_atomic(tmp_path / "new" / "file.bin", content)
    assert target.read_bytes() == b"abc"
    assert names(target.parent) == ["file.bin"]


def test_nothing_is_visible_before_the_end(tmp_path):
    with atomic_path(tmp_path / "image.png") as temporary:
        temporary.write_bytes(b"1")
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        assert temporary.parent == tmp_path
        assert not (tmp_path / "image.png").exists()
    assert names(tmp_path) == ["image.png"]


def test_failure_keeps_the_old_file_and_no_other(tmp_path):
    target = write_atomic(tmp_path / "file", b"old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_bytes(b"new, half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    target = write_atomic(tmp_path / "file", b"")
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "may write to"),
        (errno.EROFS, "may write to"),
    ],
)
def test_what_the_disk_refuses_is_said_plainly(tmp_path, code, words):
    def fail(file):
        file.write_bytes(b"half")
        raise OSError(code, os.strerror(code), str(file))

    with pytest.raises(UserError, match=words) as caught:
        write_atomic(tmp_path / "file.json", fail)
    assert str(tmp_path / "file.json") in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device(tmp_path):
    def fill(file):
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    def save(file):  # torch raises an error of its own when the file's is on its way
        with Path("/dev/full").open("wb", buffering=0) as stream:
            torch.save({"a": torch.zeros(10_000)}, stream)

    for content in (fill, save):
        with pytest.raises(UserError, match="disk is full"):
            write_atomic(tmp_path / "file", content)


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(UserError, match="stands where a folder"):
        write_atomic(tmp_path / "taken" / "file", b"")
    with pytest.raises(UserError, match="stands where a folder"):
        write_atomic(tmp_path / "taken" / "deeper" / "file", b"")


def test_a_folder_where_a_file_is_needed(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "taken", b"")
    assert names(tmp_path) == ["taken"]


def test_other_errors_of_the_body_pass(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        (tmp_path / "no such input").read_bytes()
    with pytest.raises(PermissionError), atomic_path(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "denied", "/another/file")
