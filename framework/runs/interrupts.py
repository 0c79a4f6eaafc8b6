"""Ctrl+C and termination while Lightning runs: as everywhere else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn


@dataclass
class Terminations:
    """Whether the process was asked to end while :func:`terminations` watched."""

    received: bool = False


@contextmanager
def terminations() -> Iterator[Terminations]:
    """A request to terminate ends the body like Ctrl+C, so that files are whole or absent.

    A second request ends the process at once. Where somebody else handles such requests already,
    and outside the main thread, nothing is changed.
    """
    asked = Terminations()
    if not terminable():
        yield asked
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        asked.received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl+C as everywhere else; Lightning would exit, and ignore any further one for good."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def terminable() -> bool:
    """Whether a request to terminate would end this process: nobody handles it otherwise."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def stop_when_terminated() -> None:
    """End at once when asked to, like Ctrl+C; Lightning, which sets the old handler back when it
    is done, would carry on."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
