"""The benchmark on the embedded model: what it writes, and that it goes on where it stopped."""

from __future__ import annotations

import json

import pytest

from framework.cli.main import main

COMMAND = ["transfer-bench", "--groups", "1", "--targets", "1", "--quiet"]
FEW = ["sampler.num_inference_steps=6", "injector.start_step=1"]


@pytest.mark.slow
def test_true_matches_help_outputs_and_a_finished_group_is_kept(tmp_path, capsys):
    folder = tmp_path / "bench"
    arms = ["--arm", "outputs injector=output_blend truth=masks,matches,reference"]
    command = [*COMMAND, *arms, "--output", str(folder), *FEW]
    assert main(command) == 0
    first = (folder / "groups" / "0000.json").read_bytes()
    found = json.loads((folder / "results.json").read_text())["arms"]
    errors = {name: columns["error_object"]["mean"] for name, columns in found.items()}
    assert errors["autoencoder"] < errors["outputs"] < errors["nothing"]
    assert len(list((folder / "pictures").rglob("*.png"))) == 6
    stamp = (folder / "groups" / "0000.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (folder / "groups" / "0000.json").stat().st_mtime_ns == stamp
    (folder / "groups" / "0000.json").unlink()
    assert main(command) == 0
    assert (folder / "groups" / "0000.json").read_bytes() == first
    capsys.readouterr()
    assert main([*command, "sampler.num_inference_steps=5"]) == 2
    assert "another configuration" in capsys.readouterr().err
