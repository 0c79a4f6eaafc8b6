"""The package's face: every name a plug-in author needs, in one line, loaded when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import framework
from framework import MATCHERS, Correspondence, Matcher, compose, warp

ROOT = Path(__file__).parents[1]


def test_one_line_gives_what_a_matcher_needs():
    assert framework.registry.MATCHERS is MATCHERS and issubclass(Matcher, MATCHERS.interface)
    assert framework.types.Correspondence is Correspondence
    assert framework.geometry.warp is warp and framework.composer.compose is compose


def test_every_name_is_there_and_listed():
    for name in framework._HOME:
        assert getattr(framework, name) is not None
        assert name in dir(framework)


def test_an_unknown_name_is_none():
    with pytest.raises(AttributeError, match="no attribute 'Macher'"):
        framework.Macher  # noqa: B018


def test_editors_see_the_same_names():
    """The block under TYPE_CHECKING imports each name from the module it is loaded from."""
    tree = ast.parse(Path(framework.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: imported.module.removeprefix("framework.")
        for imported in block.body
        if isinstance(imported, ast.ImportFrom)
        for alias in imported.names
        if alias.asname == alias.name
    }
    assert seen == framework._HOME


def test_importing_it_loads_nothing_heavy():
    code = "import sys, framework; print(sorted({'torch', 'omegaconf'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
