"""What a command lets through to the terminal: its own words, not those of every library."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

OWN = ("framework", "matchers", "personalizers")


class _OwnOrSerious(logging.Filter):
    """Lets own messages pass, and other libraries' errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        return record.levelno >= logging.ERROR or record.name.partition(".")[0] in OWN


class _ToStderr(logging.StreamHandler):
    """Writes to whatever ``sys.stderr`` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def quieted(quiet: bool = False, debug: bool = False) -> Iterator[None]:
    """Set up logging and warnings for a command; what was before is back afterwards.

    To be entered before the libraries are imported, as some read their settings then.

    Args:
        quiet: show warnings and errors only.
        debug: show everything, of every library.
    """
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TQDM_MININTERVAL", "0.2" if sys.stderr.isatty() else "5"),
    ):
        if not debug:
            os.environ.setdefault(name, value)
    root, handler = logging.getLogger(), _ToStderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    own = [logging.getLogger(name) for name in OWN]
    levels = [logger.level for logger in own]
    for logger in own:
        logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if not debug:
                handler.addFilter(_OwnOrSerious())
                warnings.filterwarnings("ignore")
            yield
    finally:
        root.removeHandler(handler)
        for logger, level in zip(own, levels, strict=True):
            logger.setLevel(level)


def hush_loading() -> None:
    """Hide the libraries' own bars for reading a model from disk; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()  # transformers turns these off with its own
