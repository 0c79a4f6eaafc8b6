"""Progress bars: one call, so that they look alike and can be turned off in one place."""

from __future__ import annotations

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
    """Iterate with a bar on standard error."""
    return tqdm(items, desc=label, total=total, disable=not _ENABLED.get(), leave=False, **options)


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
