from __future__ import annotations

import json

from framework.cli.main import main
from framework.registry import REGISTRIES


def test_lists_every_part_with_summary_and_options(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for kind, registry in REGISTRIES.items():
        assert f"\n{kind}  " in f"\n{shown}"
        for name, cls in registry.items():
            assert f"\n  {name}\n" in shown
            assert cls.summary()[:40] in shown
    assert "cycle_threshold  float" in shown


def test_piped_output_fits_80_columns(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


def test_one_kind_only(capsys):
    assert main(["list", "mask"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mask  ")
    assert "matcher  " not in shown


def test_json(capsys):
    assert main(["list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == list(REGISTRIES)
    (found,) = [part for part in shown["matcher"] if part["name"] == "cycle_argmax"]
    assert found["class"] == "matchers.cycle_argmax:CycleArgmax"
    (option,) = found["options"]
    assert option["name"] == "cycle_threshold"
    assert option["default"] == "0.4"
