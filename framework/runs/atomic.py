"""Files that are either whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framework.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT}
_MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the body ends without an exception.

    The temporary file lies in the same folder, is hidden and keeps the suffix, by which PIL and
    others choose a format. A reader never sees half a file; after a failure the temporary one is
    gone and an older file is untouched.

        with atomic_path("grid.png") as temporary:
            image.save(temporary)

    Args:
        path: the final path; its folder is created if missing.

    Raises:
        UserError: the disk is full, writing is not permitted, or a folder stands in the way.
    """
    target = Path(path)
    temporary = target.parent / f".{target.stem[:80]}.{uuid.uuid4().hex[:12]}{target.suffix}"
    try:
        with _worded(target, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(target)
    finally:
        if _reachable(target.parent):
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: bytes | str | Callable[[Path], object]) -> Path:
    """Write a file in one piece.

    Args:
        path: the final path; its folder is created if missing.
        content: the bytes; text, written as UTF-8; or a function that writes the file it is given.

    Returns:
        The path.

    Raises:
        UserError: see :func:`atomic_path`.
    """
    with atomic_path(path) as temporary:
        if callable(content):
            content(temporary)
        else:
            data = content.encode() if isinstance(content, str) else content
            temporary.write_bytes(data)
    return Path(path)


@contextmanager
def _worded(target: Path, temporary: Path) -> Iterator[None]:
    """Turn the operating system's refusals about this file into plain words."""
    try:
        yield
    except (OSError, RuntimeError) as raised:
        error = raised if isinstance(raised, OSError) else _met_while(raised)
        if error is None:
            raise
        about = None if error.filename is None else Path(str(error.filename))
        ours = about is None or about in (temporary, target, *target.parents)
        if error.errno in _FULL:
            raise UserError(
                f"{target} cannot be written: the disk is full. Free some space, or choose another "
                "folder; nothing of this file was kept."
            ) from error
        if ours and error.errno in _DENIED:
            raise UserError(
                f"{target} cannot be written: {error.strerror or 'permission denied'}. Choose a "
                "folder you may write to."
            ) from error
        if ours and error.errno in _MISPLACED:
            raise UserError(
                f"{target} cannot be written: {error.strerror}: {about or target}. A file stands "
                "where a folder is needed, or the reverse; choose another path."
            ) from error
        raise


@contextmanager
def plain_disk_errors(target: Path) -> Iterator[None]:
    """Word a full or forbidden disk plainly, also where a library hides the system's error.

    safetensors raises an exception of its own that only quotes the system.
    """
    try:
        with _worded(target, target):
            yield
    except UserError:
        raise
    except Exception as error:
        if "No space left" in str(error) or "os error 28" in str(error):
            raise UserError(
                f"{target} cannot be written: the disk is full. Free some space, or choose another "
                "folder; nothing of it was kept."
            ) from error
        raise


def _met_while(raised: BaseException) -> OSError | None:
    """The full disk behind an error that came of it; torch.save raises one of its own."""
    found = raised.__context__
    return found if isinstance(found, OSError) and found.errno in _FULL else None


def _reachable(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A note written as a JSON mapping; empty if it is missing, damaged or something else."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
