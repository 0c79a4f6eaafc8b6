"""Progress bars: one call, so that they look alike and can be turned off in one place."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

_ENABLED: ContextVar[bool] = ContextVar("progress_enabled", default=True)


def progress(
    items: Iterable[T], label: str, total: int | None = None, **options: Any
) -> Iterable[T]:
    """Iterate with a bar on standard error.

    In a terminal a bar goes away when it is done. In a file or a pipe the outermost one stays, so
    that its last line says 100 %, and those inside it are not shown.
    """
    hidden = not _ENABLED.get()
    if _in_terminal():
        return tqdm(items, desc=label, total=total, disable=hidden, leave=False, **options)
    inner = bool(getattr(tqdm, "_instances", ()))
    return tqdm(items, desc=label, total=total, disable=hidden or inner, leave=True, **options)


def _in_terminal() -> bool:
    """Whether lines can be overwritten: a terminal, or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress_enabled() -> bool:
    """Whether bars are shown here."""
    return _ENABLED.get()


@contextmanager
def no_progress() -> Iterator[None]:
    """Hide every bar inside the context."""
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)
