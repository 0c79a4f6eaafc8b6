"""Standard output and error that take every text, whatever the terminal is."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

#: What stands for characters of ours where a stream cannot print them.
PLAIN = str.maketrans(
    {"→": "->", "×": "x", "·": ".", "–": "-", "—": "-", "…": "...", "±": "+-", "≥": ">=", "≤": "<="}
)
ERRORS = "framework.plain"
#: A terminal that says it is narrower is not believed: tables would come out empty.
NARROWEST = 20


@contextmanager
def printable() -> Iterator[None]:
    """While it lasts, printing never fails for the sake of a character, a width or a closed stream.

    A character that the stream's encoding lacks (LANG=C) is replaced by a plain one. A stream that
    was closed before the start takes everything and drops it. ``COLUMNS=0`` is as if it were unset.
    """
    codecs.register_error(ERRORS, _replaced)
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, stack.enter_context(Path(os.devnull).open("w")))
            elif hasattr(stream, "reconfigure"):
                stack.callback(_restore, stream, stream.errors)
                stream.reconfigure(errors=ERRORS)
        columns = os.environ.get("COLUMNS", "").strip()
        if columns.isdecimal() and int(columns) < NARROWEST:
            del os.environ["COLUMNS"]
            stack.callback(os.environ.__setitem__, "COLUMNS", columns)
        yield


def discard_output() -> None:
    """Send what is still to be printed nowhere: standard output takes no more."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _restore(stream: TextIO, errors: str) -> None:
    if not stream.closed:
        stream.reconfigure(errors=errors)  # type: ignore[attr-defined]


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "replace").decode(), error.end
