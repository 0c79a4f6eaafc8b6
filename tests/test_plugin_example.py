"""The example of a plug-in package can be installed and is found by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = Path(__file__).parent / "plugin_example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, installed without network into a folder of its own; and an environment."""
    place = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, place / "source")
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    words += ["--disable-pip-version-check", "--target", str(place / "site"), "./source"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(place / "site"), str(ROOT)])}


def run(code, env, folder):
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_an_installed_plug_in_is_listed_configured_and_used_by_name(installed, tmp_path):
    code = (
        "import json, torch\n"
        "from framework.cli.listing import collect\n"
        "from framework.config.page import load_config\n"
        "from framework.types import Features, Masks\n"
        "(part,) = [p for p in collect('matcher')['matcher'] if p['name'] == 'centred']\n"
        "matcher = load_config(None, ['matcher=centred', 'matcher.reach=3']).part('matcher')\n"
        "grid = torch.nn.functional.normalize(torch.randn(2, 5, 6, 8), dim=-1)\n"
        "ones = torch.ones(2, 5, 6)\n"
        "same = matcher(Features(grid, grid), Masks(ones, ones))\n"
        "print(json.dumps([part, matcher.config.reach, float(same.flow.abs().max()),\n"
        "                  float(same.confidence.min())]))\n"
    )
    done = run(code, installed, tmp_path)
    assert done.returncode == 0, done.stderr
    part, reach, flow, confidence = json.loads(done.stdout)
    assert part["class"] == "centred_matcher.matcher:Centred"
    assert [option["name"] for option in part["options"]] == ["reach"]
    assert (reach, flow, confidence) == (3.0, 0.0, 1.0)

    # A wrong option of it is refused like any other's.
    code = "from framework.cli.main import main; main(['config', 'matcher=centred', 'matcher.x=1'])"
    done = run(code, installed, tmp_path)
    assert "reach" in done.stderr and "error" in done.stderr


def test_without_the_plug_in_its_name_is_unknown():
    from framework.errors import UserError
    from framework.interfaces import MATCHERS

    with pytest.raises(UserError, match="Unknown matcher 'centred'"):
        MATCHERS.get("centred")
