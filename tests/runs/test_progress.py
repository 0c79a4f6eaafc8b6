from __future__ import annotations

import io
import sys

import pytest

from framework.runs.progress import _ENABLED, no_progress, progress


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def _shown(monkeypatch):
    """Bars on, as tests have them off, and no notebook."""
    token = _ENABLED.set(True)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    yield
    _ENABLED.reset(token)


def written(monkeypatch, terminal: bool) -> str:
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    for _ in progress(range(3), "outer"):
        for _ in progress(range(2), "inner"):
            pass
    return screen.getvalue()


def test_a_pipe_ends_at_100_percent_and_has_the_outer_bar_alone(monkeypatch):
    text = written(monkeypatch, terminal=False)
    assert text.endswith("\n")
    assert text.splitlines()[-1].lstrip("\r").startswith("outer: 100%")
    assert "3/3" in text and "inner" not in text


def test_in_a_terminal_nothing_stays(monkeypatch):
    text = written(monkeypatch, terminal=True)
    assert "outer" in text and "inner" in text
    assert not text.rstrip(" \r").endswith("]")


def test_no_progress(monkeypatch):
    with no_progress():
        assert written(monkeypatch, terminal=False) == ""
