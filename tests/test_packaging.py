"""What is installed: light imports, every package in the wheel, bounds that do not pin."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from glob import glob
from pathlib import Path

import pytest
from setuptools import find_packages

import framework

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOUSES = ("framework", "matchers", "personalizers", "configs")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["framework", "framework.errors", "framework.cli.main"])
def test_light_imports(module):
    heavy = "('torch', 'diffusers', 'transformers', 'pytorch_lightning', 'timm')"
    assert run(f"import sys, {module}; print([n for n in {heavy} if n in sys.modules])") == "[]"


def test_importing_everything_a_command_needs_opens_no_connection_and_writes_nothing(tmp_path):
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "import framework.composer, framework.config.page\n"
        "framework.config.page.load_config()\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "done", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_package_is_in_the_wheel():
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packaged = set(find_packages(str(ROOT), include=include))
    for house in HOUSES:
        for file in (ROOT / house).rglob("*.py"):
            package = ".".join(file.parent.relative_to(ROOT).parts)
            assert package in packaged, f"{file} is in no package: its folder has no __init__.py"
    assert {name.partition(".")[0] for name in packaged} == set(HOUSES)


def test_every_data_file_is_in_the_wheel():
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    for house in HOUSES:
        patterns = declared.get(house, [])
        root = ROOT / house
        covered = {root / n for p in patterns for n in glob(p, root_dir=root, recursive=True)}  # noqa: PTH207
        found = {
            file
            for file in root.rglob("*")
            if file.is_file() and file.suffix not in (".py", ".pyc", ".md")
        }
        hidden = {file for file in found if file.name.startswith(".")}
        assert found - hidden <= covered, sorted(found - hidden - covered)[:5]


def test_dependencies_have_lower_bounds_only():
    extra = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *sum(extra.values(), [])]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement


def test_version_command_and_licence():
    assert PROJECT["project"]["name"] == "dreammatcher"
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "framework.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", framework.__version__)
    assert PROJECT["project"]["scripts"] == {"dreammatcher": "framework.cli.main:main"}
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 1", "Python 3.11 or newer is needed"),
        ('case "$2" in *ensurepip*) exit 1;; esac; exit 0', "apt install python3-venv"),
    ],
)
def test_make_says_what_a_fresh_machine_lacks(tmp_path, script, expected):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    words = ["make", "-C", str(ROOT), "demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode != 0
    assert expected in done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_runs_the_readme_s_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "export CI=true\nmake test" in script.read_text()
    assert ".ci/browser" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("ci", ["true", ""])
def test_ci_installs_the_browser_that_is_missing(tmp_path, ci):
    for name, line in {"apt-get": f'echo "$@" >> {tmp_path}/log', "id": "echo 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    (tmp_path / "sh").symlink_to(shutil.which("sh"))
    words = [str(tmp_path / "bash"), str(ROOT / ".ci" / "browser")]
    env = {"PATH": str(tmp_path), "CI": ci}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    if ci:
        update, install = (tmp_path / "log").read_text().splitlines()
        assert update.startswith("update")
        assert install.endswith(" chromium chromium-driver")
    else:
        assert not (tmp_path / "log").exists()
        assert "apt install chromium-driver" in done.stderr
