"""The tiny world, made once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("ablation_world", Path(__file__).parent / "world.py")
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["ablation_world"] = _module
_spec.loader.exec_module(_module)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return _module.make_world(tmp_path_factory.mktemp("ablation"))
