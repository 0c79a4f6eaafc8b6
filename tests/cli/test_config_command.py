from __future__ import annotations

import yaml

from framework.cli.main import main
from framework.config.page import load_config, to_plain


def test_prints_the_resolved_configuration(capsys):
    words = ["config", "--config", "presets/paper", "model.path=x", "guidance.weight=50"]
    assert main(words) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["guidance"]["weight"] == 50
    expected = load_config("presets/paper", ["model.path=x", "guidance.weight=50"])
    assert shown == to_plain(expected)


def test_what_it_prints_can_be_used(tmp_path, capsys):
    assert main(["config", "seed=5"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert main(["config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text()
