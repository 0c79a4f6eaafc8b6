from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from framework import registry as registry_module
from framework.config.page import load_config
from framework.errors import UserError, unknown_name
from framework.interfaces import MATCHERS, Guidance, Matcher
from framework.registry import REGISTRIES, Registry, import_plugin
from framework.types import Correspondence, Features, Masks

MATCHER = """
from __future__ import annotations

import torch
from framework.interfaces import Matcher
from framework.interfaces import MATCHERS
from framework.types import Correspondence


@MATCHERS.register("{name}")
class Still(Matcher):
    \"\"\"Matches every cell with itself.\"\"\"

    def __init__(self, trust: float = 1.0) -> None:
        self.trust = trust

    def match(self, target, reference, masks):
        flow = torch.zeros(*target.shape[:3], 2)
        return Correspondence(flow, torch.full(target.shape[:3], self.trust))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a module into a folder on the path; forget it and what it registered afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    known = {kind: dict(each._classes) for kind, each in REGISTRIES.items()}
    written = []

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
    for kind, each in REGISTRIES.items():
        each._classes.clear()
        each._classes.update(known[kind])


@pytest.fixture
def own(monkeypatch) -> Registry:
    """An empty registry of matchers, with nothing to discover."""
    monkeypatch.setattr(REGISTRIES, "_made", dict(REGISTRIES))
    made = Registry("matcher", "matchers", Matcher)
    made._discovered = True
    return made


class Complete(Matcher):
    def match(self, target, reference, masks):
        raise NotImplementedError


def test_every_kind_has_parts_of_its_interface():
    for kind, each in REGISTRIES.items():
        assert each.names(), kind
        for name, cls in each.items():
            assert issubclass(cls, each.interface)
            assert cls.name == name
            assert cls.summary(), f"{cls} has no docstring"


def test_every_registry_stands_beside_its_interface_and_at_its_former_place():
    assert list(REGISTRIES) == [
        "personalizer", "trajectory", "extractor", "mask", "matcher", "injector", "guidance",
    ]  # fmt: skip
    assert REGISTRIES["matcher"] is MATCHERS is registry_module.MATCHERS
    with pytest.raises(ImportError, match="NO_SUCH"):
        from framework.registry import NO_SUCH  # noqa: F401


def test_the_registries_are_there_whatever_is_imported_first():
    code = "from framework.registry import REGISTRIES; assert len(REGISTRIES) == 7"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_unknown_name_lists_the_nearest():
    with pytest.raises(UserError, match="Unknown matcher 'cycle_argmx'. Did you mean 'cycle_arg"):
        MATCHERS.get("cycle_argmx")


def test_duplicate_names_are_refused(own):
    own.register("mine")(Complete)
    own.register("mine")(Complete)  # the same class again, as on a re-import, is no conflict

    class Other(Complete):
        pass

    with pytest.raises(UserError, match="Two matcher parts are called 'mine'.*another name"):
        own.register("mine")(Other)


def test_what_is_no_part_is_refused(own):
    class Unfinished(Matcher):
        pass

    class OfAnotherKind(Guidance):
        def active(self, step):
            return False

        def correct(self, inputs):
            return inputs.eps

    with pytest.raises(UserError, match="does not define match"):
        own.register("a")(Unfinished)
    with pytest.raises(UserError, match="does not derive from framework.interfaces.Matcher"):
        own.register("b")(OfAnotherKind)
    with pytest.raises(UserError, match="does not derive from"):
        own.register("c")(lambda: None)
    for bad in ("", "a:b"):
        with pytest.raises(UserError, match="cannot name a matcher"):
            own.register(bad)
    assert own.names() == []


def test_plugin_from_a_configuration(plugin):
    module = plugin("dm_test_still", MATCHER.format(name="still"))
    config = load_config({"plugins": [module], "matcher": {"name": "still", "trust": 0.5}})
    part = config.part("matcher")
    assert part.trust == 0.5
    ones = torch.ones(1, 4, 4)
    matches = part(Features(torch.rand(1, 4, 4, 3), torch.rand(1, 4, 4, 3)), Masks(ones, ones))
    assert isinstance(matches, Correspondence)
    assert matches.confidence.unique().item() == 0.5
    assert "still" in MATCHERS.names()
    with pytest.raises(UserError, match="matcher.trust is 'x'; expected a number"):
        load_config({"plugins": [module]}, ["matcher.name=still", "matcher.trust=x"])


def test_part_by_module_and_class(plugin):
    module = plugin("dm_test_path", MATCHER.format(name="by_path"))
    config = load_config(None, [f"matcher={module}:Still", "matcher.trust=0.25"])
    assert config.matcher == {"name": f"{module}:Still", "trust": 0.25}
    assert config.part("matcher").trust == 0.25
    with pytest.raises(UserError, match="has no class 'Stil'. Did you mean 'Still'?"):
        MATCHERS.get(f"{module}:Stil")
    with pytest.raises(UserError, match="is no guidance: it does not derive from"):
        REGISTRIES["guidance"].get(f"{module}:Still")
    with pytest.raises(UserError, match="has no class 'torch'"):
        MATCHERS.get(f"{module}:torch")


def test_error_inside_a_plugin_is_raised_as_it_is(plugin):
    missing = plugin("dm_test_missing", "import a_library_nobody_has")
    broken = plugin("dm_test_broken", "1 / 0")
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        load_config({"plugins": [missing]})
    with pytest.raises(ZeroDivisionError):
        load_config({"plugins": [broken]})


def test_plugin_that_is_not_there():
    with pytest.raises(UserError, match="'dm_no_such' cannot be imported.*PYTHONPATH"):
        load_config({"plugins": ["dm_no_such"]})
    with pytest.raises(UserError, match=r"no module named 'framework\.nowhere'"):
        import_plugin("framework.nowhere")
    for bad in ("./mine.py", "", "a..b", "my-matcher"):
        with pytest.raises(UserError, match="is no module name"):
            import_plugin(bad)


def test_plugin_with_a_taken_name_is_refused(plugin):
    module = plugin("dm_test_taken", MATCHER.format(name="cycle_argmax"))
    MATCHERS.discover()
    with pytest.raises(UserError, match="Two matcher parts are called 'cycle_argmax'"):
        load_config({"plugins": [module]})


def test_installed_plugins_are_found(plugin, monkeypatch):
    module = plugin("dm_test_entry", MATCHER.format(name="from_entry_point"))
    group = registry_module.ENTRY_POINT_GROUP
    assert group == "dreammatcher.plugins"
    entries = [EntryPoint("mine", module, group)]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)
    monkeypatch.setattr(MATCHERS, "_discovered", False)
    assert "from_entry_point" in MATCHERS.names()


def test_a_broken_installed_plugin_is_reported_every_time(plugin, monkeypatch):
    entries = [EntryPoint("bad", plugin("dm_test_bad_entry", "import nothing_like_it"), "x")]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)
    monkeypatch.setattr(MATCHERS, "_discovered", False)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="nothing_like_it"):
            MATCHERS.names()


def test_a_name_of_another_type_is_not_suggested_as_itself():
    assert str(unknown_name("variant", 1, ["1", "2"])) == (
        "Unknown variant '1'. It is known as text: put it in quotes, \"'1'\". Known: 1, 2."
    )
    assert str(unknown_name("variant", "a", [])) == "Unknown variant 'a': there is none here."
