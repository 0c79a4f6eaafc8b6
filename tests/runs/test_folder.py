from __future__ import annotations

from dataclasses import replace

import pytest

from framework.config.folder import CONFIG_FILE, open_run as open_default
from framework.config.page import load_config
from framework.errors import UserError


def open_run(folder, config):
    """Open a folder that was asked for by name."""
    return open_default(replace(config, output=str(folder)), "unused")


def refusal(folder, config) -> str:
    with pytest.raises(UserError) as caught:
        open_run(folder, config)
    return str(caught.value)


def test_a_new_folder_gets_the_resolved_configuration(tmp_path):
    config = load_config(None, ["seed=4"])
    assert open_run(tmp_path / "a" / "b", config) == tmp_path / "a" / "b"
    written = load_config(tmp_path / "a" / "b" / CONFIG_FILE)
    assert replace(written, output=None) == config
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == [CONFIG_FILE]


def test_the_same_configuration_goes_on(tmp_path):
    config = load_config()
    open_run(tmp_path, config)
    (tmp_path / "000-0.png").write_bytes(b"done")
    open_run(tmp_path, config)
    open_run(tmp_path, load_config(None, ["sampler.batch_size=2", "output=elsewhere"]))
    assert (tmp_path / "000-0.png").read_bytes() == b"done"


def test_another_configuration_is_refused_with_the_keys_that_differ(tmp_path):
    open_run(tmp_path, load_config())
    text = refusal(tmp_path, load_config(None, ["seed=4", "matcher.cycle_threshold=0.3"]))
    assert "seed is 0 there, 4 now" in text
    assert "matcher.cycle_threshold is 0.4 there, 0.3 now" in text
    text = refusal(tmp_path, load_config(None, ["guidance=semantic_matching"]))
    assert "guidance.weight is absent there" in text
    assert "and 2 more" in text
    assert load_config(tmp_path / CONFIG_FILE).seed == 0


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    assert "is not empty and holds no run: it has holiday.jpg" in refusal(tmp_path, load_config())
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file; give a folder" in refusal(file, load_config())
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / CONFIG_FILE).write_text("a: [")
    assert "is damaged" in refusal(tmp_path / "damaged", load_config())


def test_hidden_files_do_not_count(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"x")
    open_run(tmp_path, load_config())


def test_another_configuration_gets_a_folder_of_its_own_by_itself(tmp_path, caplog):
    caplog.set_level("INFO")
    first, second = load_config(), load_config(None, ["seed=4"])
    assert open_default(first, tmp_path / "run") == tmp_path / "run"
    for _ in range(2):  # the second time it goes on there
        assert open_default(second, tmp_path / "run") == tmp_path / "run-2"
        assert open_default(first, tmp_path / "run") == tmp_path / "run"
    assert open_default(load_config(None, ["seed=5"]), tmp_path / "run") == tmp_path / "run-3"
    assert "is taken" in caplog.text and "run-2" in caplog.text
