"""``dreammatcher bench``: counts on a tiny pipeline, the table by hand, refusals."""

from __future__ import annotations

import pytest
from tiny import tiny_concept

from framework.cli.main import main
from framework.config.page import load_config
from framework.costs.costs import PLAIN, counted, for_targets, make_call
from framework.costs.counting import Count, count
from framework.costs.models import Subject
from framework.costs.report import cost_markdown, verdicts, with_ratios

OPTIONS = [
    "model.path=tiny",
    "mask.resolution=4",
    "injector.start_step=1",
    "sampler.num_inference_steps=4",
    "sampler.scheduler=DDIMScheduler",
]


@pytest.fixture(scope="module")
def subject(sd1):
    given = tiny_concept()
    plain = type(given)(given.name, "", given.class_name, given.images)
    return Subject("tiny", sd1, plain, load_config("models/sd1", OPTIONS))


def test_the_plain_pipeline_by_hand(subject):
    """4 steps of 2 rows an image, found from runs of two and three steps without computing; a real
    run counts the same operations."""
    short = counted(subject, PLAIN, 1, 4)
    real = count(make_call(subject, PLAIN, 1, 4), subject.pipe.unet, hollow=False)
    assert short.rows == real.rows == 4 * 2
    assert short.flops == pytest.approx(real.flops, rel=1e-6)


@pytest.mark.slow
def test_the_method_by_hand(subject):
    """4 rows of the inversion and 2 a step of the reference, once; a warm cache leaves neither."""
    short = counted(subject, "DreamMatcher", 1, 4)
    real = count(make_call(subject, "DreamMatcher", 1, 4), subject.pipe.unet, hollow=False)
    assert short.rows == real.rows == 4 * 2 + 4 + 4 * 2
    assert short.flops == pytest.approx(real.flops, rel=1e-6)
    assert counted(subject, "DreamMatcher, cached", 1, 4).rows == 4 * 2


def test_costs_of_more_targets():
    assert for_targets(Count(10, 4, 100), Count(16, 6, 130), 8) == Count(52, 18, 310)


def row(arm: str, flops: float, wall: float | None) -> dict:
    fixed = {"model": "embedded", "targets": 8, "steps": 25, "device": "cpu"}
    return {**fixed, "arm": arm, "flops": flops, "rows": 50, "peak": 2**20, "wall": wall, "cpu": 1}


def test_ratios_and_aims_by_hand():
    rows = with_ratios([row(PLAIN, 2e12, 4.0), row("DreamMatcher, cached", 2.2e12, 4.4)])
    assert rows[1]["ratio"]["flops"] == pytest.approx(1.1)
    assert verdicts(rows) == [
        "embedded, DreamMatcher, cached: 1.10 times the plain pipeline's TFLOP, aimed at 1.08"
    ]
    assert "| embedded | 8 | DreamMatcher, cached | 2.2 (1.10) |" in cost_markdown(rows)
    untimed = with_ratios([row(PLAIN, 2e12, None), row("DreamMatcher", 2.2e12, None)])
    assert verdicts(untimed) == ["All 1 aims at 8 targets are met."]
    assert "| - |" in cost_markdown(untimed)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--targets", "0"], "--targets"),
        (["--targets", "4", "4"], "twice"),
        (["--steps", "0"], "--steps"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_refuses_numbers_out_of_range(words, says, capsys):
    assert main(["bench", *words]) == 2
    assert says in capsys.readouterr().err
