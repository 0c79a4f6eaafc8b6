import pytest
from ablation_world import tiny_plan

from framework.cli.main import main
from framework.config.page import load_config
from framework.errors import UserError
from framework.experiments.plan import load_plan
from framework.experiments.throughput import (
    Speed,
    aim_sentence,
    speed_of,
    speed_table,
    throughput_plan,
)


def note(process, began, seconds, cells=4):
    return {"process": process, "began": began, "seconds": seconds, "cells": cells}


def test_only_the_time_in_which_all_draw_counts():
    """The second starts at 10 s, its first batch ends at 14; the first has ended at 20."""
    first = [note(1, began, 4) for began in (0, 4, 8, 12, 16)]
    second = [note(2, began, 4) for began in (10, 14, 18, 22)]
    speed = speed_of([*first, *second], 2)
    assert speed.seconds == 20 - 14
    assert speed.rate == pytest.approx(2.0)  # each draws 1 a second
    alone = speed_of(first, 1)
    assert (alone.rate, alone.seconds) == (pytest.approx(1.0), 16)


@pytest.mark.parametrize(
    "notes", [[], [note(1, 0, 4)], [note(1, 0, 4), note(1, 4, 4), note(2, 9, 4), note(2, 13, 4)]]
)
def test_what_does_not_overlap_is_refused(notes):
    with pytest.raises(UserError, match="more batches"):
        speed_of(notes, 2)


def test_the_aim():
    speeds = [Speed(1, 2.0, 10.0), Speed(2, 3.5, 10.0)]
    assert "1.75 times" in aim_sentence(speeds) and aim_sentence(speeds).endswith("met.")
    assert aim_sentence([Speed(1, 2.0, 10.0), Speed(2, 3.0, 10.0)]).endswith("missed.")
    assert aim_sentence(speeds[1:]) == ""
    assert "| 2 | 3.500 | 1.75 | 10 s |" in speed_table(speeds)


def test_the_plan_has_equal_batches_of_what_is_configured(world):
    said = tiny_plan(world)["config"]
    options = [f"{key}={value}" for key, value in said.items() if value != ""]
    config = load_config(None, [*options, "matcher.cycle_threshold=0.7"])
    plan = load_plan(throughput_plan(config, batches=3, pictures=2))
    (setting,) = plan.settings
    assert len(setting.cells) == 6 and setting.config.sampler.batch_size == 2
    assert setting.config.matcher["cycle_threshold"] == 0.7 and not plan.learn
    assert setting.concept == "blot" and setting.subject.placeholder == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "0"], "--processes is 0"),
        (["--processes", "one"], "--processes is 'one'"),
        (["--processes", "1,1"], "twice"),
        (["--processes", "1", "--batches", "1"], "--batches is 1"),
        (["--processes", "1", "--targets", "2", "4"], "give one number"),
        (["--batches", "3"], "give both or neither"),
        (["--processes", "1", "concept.library=nowhere"], "has no concept"),
    ],
)
def test_what_the_command_refuses(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
