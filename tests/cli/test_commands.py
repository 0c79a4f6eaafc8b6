from __future__ import annotations

import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from framework.cli import completion
from framework.cli.commands import COMMANDS, GROUPS, PROGRAM, usage


def test_every_command_stands_in_one_group():
    grouped = [name for names, _ in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    for names, example in GROUPS.values():
        assert shlex.split(example)[0] in names


@pytest.mark.parametrize("width", [0, 30, 45, 80, 200])
def test_help_fits_the_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = usage(PROGRAM, "About it.", COMMANDS).splitlines()
    free = [line for line in lines if not line.startswith(("    e.g.", "usage:"))]
    assert max(map(len, free)) <= max(width or 80, 40)
    text = " ".join(" ".join(lines).split())
    for name, (_, words) in COMMANDS.items():
        assert f"{name} {words}" in text


def test_a_program_s_own_commands_are_listed_in_their_order():
    shown = usage("dm world", "About it.", {"b": ("m", "the b"), "a": ("m", "the a")})
    assert "\ncommands:\n  b  the b\n  a  the a\n" in shown


def test_python_m_framework(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["framework", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("framework", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("dreammatcher ")


def test_config_keys_are_those_an_override_takes():
    keys = completion.config_keys()
    assert {"sampler.height", "matcher.name", "concept.class_name", "seeds"} <= set(keys)


COMPLETED = [
    (["sample", "--ba"], ["--baseline"]),
    (["sample", "sampler.hei"], ["sampler.height="]),
    (["--quiet", "wor"], ["world"]),
    (["world", "pre"], ["preview", "pretrain"]),
    (["ablate", "comp"], ["components"]),
    (["sample", "--config", "presets/pa"], ["presets/paper"]),
    (["help", "insp"], ["inspect"]),
    (["completion", "z"], ["zsh"]),
    (["nonsense", "x"], []),
]


def test_completion_in_a_real_shell(tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    lines = [completion.script()]
    for words, _ in COMPLETED:
        typed = shlex.join([PROGRAM, *words])
        lines.append(f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _{PROGRAM}")
        lines.append('echo "${COMPREPLY[@]}"')
    done = subprocess.run([bash], input="\n".join(lines), capture_output=True, text=True)
    assert done.stdout.splitlines() == [" ".join(expected) for _, expected in COMPLETED]
    assert done.stderr == ""
