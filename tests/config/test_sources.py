"""An edited plug-in is another run: its source belongs to the configuration."""

from __future__ import annotations

import importlib
import sys

import pytest

from framework.config.folder import open_run
from framework.config.page import load_config, to_plain
from framework.errors import UserError
from framework.experiments.cells import digest_of

MATCHER = """
from framework import Correspondence, Matcher


class Still(Matcher):
    def match(self, target, reference, masks):
        return Correspondence({flow} * target[..., :2], target[..., 0])
"""


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Write the plug-in's source and import it anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(flow: int) -> None:
        (tmp_path / "dm_test_edited.py").write_text(MATCHER.format(flow=flow))
        sys.modules.pop("dm_test_edited", None)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("dm_test_edited", None)


def test_shipped_parts_have_none():
    config = load_config(None, ["matcher=smooth_flow", "extractor=fused"])
    assert config.sources == {} and "sources" not in to_plain(config)


@pytest.mark.parametrize("overrides", [["matcher=dm_test_edited:Still"],
    ["matcher=smooth_flow", "matcher.matcher=dm_test_edited:Still"],
    ["plugins=[dm_test_edited]"], ["sampler.loop=dm_test_edited:denoise"]])  # fmt: skip
def test_an_edited_plug_in_is_another_run(edited, tmp_path, overrides):
    given = [*overrides, f"output={tmp_path / 'run'}"]
    edited(1)
    first = load_config(None, given)
    open_run(first, "unused")
    open_run(load_config(None, given), "unused")  # the same source: the run goes on
    edited(2)
    second = load_config(None, given)
    assert digest_of(first) != digest_of(second)
    with pytest.raises(UserError, match="sources.dm_test_edited is"):
        open_run(second, "unused")
    edited(1)
    third = load_config(None, given)
    assert digest_of(third) == digest_of(first)
    open_run(third, "unused")


def test_a_noted_hash_is_computed_anew(edited, tmp_path):
    edited(1)
    config = load_config(None, ["matcher=dm_test_edited:Still"])
    (tmp_path / "noted.yaml").write_text(config.to_yaml())
    edited(2)
    again = load_config(tmp_path / "noted.yaml")
    assert set(again.sources) == {"dm_test_edited"} and again.sources != config.sources


def test_a_package_counts_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "dm_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text(MATCHER.format(flow=0))
    (package / "helper.py").write_text("")
    options = ["matcher=dm_test_package.part:Still"]
    before = load_config(None, options).sources
    (package / "helper.py").write_text("x = 1")
    assert load_config(None, options).sources != before
    for name in [name for name in sys.modules if name.startswith("dm_test_package")]:
        del sys.modules[name]
