"""Hiding what Lightning prints about itself, while it trains."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's tips and notices; errors are raised all the same."""
    names = ("pytorch_lightning", "lightning_fabric", "lightning")
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    affected = [one for one in loggers if one.name.partition(".")[0] in names]
    levels = [(one, one.level) for one in affected]
    try:
        for one in affected:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in levels:
            one.setLevel(level)
