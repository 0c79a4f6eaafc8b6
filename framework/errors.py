"""The one error a user is meant to read, and the helpers that word it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin


class UserError(Exception):
    """Something the user gave cannot be used; the message says what, why and what to do.

    The command line prints the message alone and exits with status 2. Library callers may catch it
    like any exception. Its text follows one pattern: what was got, what was expected, what to do.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not among the known ones."""
    names = sorted(str(k) for k in known)
    if not names:
        return UserError(f"Unknown {kind} '{name}': there is none here.")
    advice = nearest(name, names)
    if str(name) in names:  # as text, say, where a number was given
        advice = f" It is known as text: put it in quotes, \"'{name}'\"."
    return UserError(f"Unknown {kind} '{name}'.{advice} Known: {', '.join(names)}.")


def first_line(error: BaseException, most: int = 300) -> str:
    """First line of another library's exception, for a sentence of our own; its class if empty.

    Args:
        error: the exception.
        most: characters at most. The line ends without a full stop.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:most].rstrip(".")


def check_range(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """Refuse a number outside ``[low, high]`` (either bound may be absent).

    Raises:
        UserError: with the name, the value and the permitted range.
    """
    if value is None:
        return
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        if low is not None and high is not None:
            expected = f"a value in [{low:g}, {high:g}]"
        else:
            expected = f"at least {low:g}" if low is not None else f"at most {high:g}"
        raise UserError(f"{name} is {value}; expected {expected}.")


def shown(value: Any) -> str:
    """A value about as YAML has it, for messages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return f"'{value}'" if isinstance(value, str) else repr(value)


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_PLURALS = {int: "integers", float: "numbers", str: "texts", bool: "true or false"}


def in_words(hint: Any) -> str:
    """A type in words: ``int | None`` is "an integer or null"."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if list in (hint, origin) or tuple in (hint, origin):
        return f"a list of {_PLURALS.get(arguments[0], 'values') if arguments else 'values'}"
    if dict in (hint, origin):
        return "a mapping"
    if origin is Literal:
        return f"one of {', '.join(map(shown, arguments))}"
    if arguments:
        return " or ".join(map(in_words, arguments))
    return f"a {getattr(hint, '__name__', hint)}"
