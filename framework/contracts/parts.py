"""What every part keeps, of whatever kind."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from framework.contracts.base import expect
from framework.interfaces import Part


def says_what_it_does(part: Part) -> None:
    """Its class has a docstring whose first line is a sentence; `dreammatcher list` shows it."""
    summary = type(part).summary() if type(part).__doc__ else ""
    expect(
        len(summary) > 10 and summary.endswith((".", ").")),
        f"the docstring of {type(part).__name__} begins with '{summary}'; expected a sentence.",
    )


def explains_its_options(part: Part) -> None:
    """Every option has a line of help: option(..., "help"), or the Args of its docstring."""
    silent = [
        item.name for item in fields(type(part).config_class()) if not item.metadata.get("help")
    ]
    expect(not silent, f"no help for {', '.join(silent)}.")


def is_rebuilt_from_its_section(part: Part) -> None:
    """An equal part is built from part.section(), as runs and learned weights rely on."""
    section: dict[str, Any] = part.section()
    try:
        text = json.dumps(section)
    except TypeError as error:
        expect(False, f"its section cannot stand in a file: {error}.")
    options = {key: value for key, value in json.loads(text).items() if key != "name"}
    again = type(part)(**options)
    expect(
        json.dumps(again.section()) == text,
        f"rebuilt from {text} it says {json.dumps(again.section())} of itself.",
    )


CHECKS = (says_what_it_does, explains_its_options, is_rebuilt_from_its_section)
