"""What is printed arrives, whatever the terminal, the locale and the pipe are."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.cli.streams import printable

TEXT = "5 × 3 → 0.9 · a – b… ü 猫 \udcff"
PLAIN = "5 x 3 -> 0.9 . a - b... ? ? ?"


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", PLAIN),
        ("latin-1", "5 × 3 -> 0.9 · a - b... ü ? ?"),
        ("utf-8", TEXT.replace("\udcff", "?")),
    ],
)
def test_characters_a_stream_lacks_become_plain_ones(encoding, expected, monkeypatch):
    terminal = stream(encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    with printable():
        print(TEXT, end="")
    assert terminal.errors == "strict"
    terminal.flush()
    assert terminal.buffer.getvalue().decode(encoding) == expected


def test_closed_streams_take_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with printable():
        print("nowhere")
        print("nowhere", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert sys.stdout is None and sys.stderr is None


@pytest.mark.parametrize(("given", "inside"), [("0", None), ("3", None), ("80", "80"), ("x", "x")])
def test_a_terminal_of_no_width_is_not_believed(given, inside, monkeypatch):
    monkeypatch.setenv("COLUMNS", given)
    with printable():
        assert os.environ.get("COLUMNS") == inside
    assert os.environ["COLUMNS"] == given


def program(words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m framework {words}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, env=os.environ | environment
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_below_standard_output():
    done = program("--help > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith(b"dreammatcher: error: the disk is full")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", ["--help >&-", "--help 2>&-", "--help | true", "--help | head -1"]
)
def test_closed_pipes(words):
    done = program(words)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_program_in_the_c_locale():
    done = program("nonsense→ü", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"Unknown command 'dreammatcher nonsense->?" in done.stderr
