"""The checks of `dreammatcher check`: every registered part passes them, and bad parts do not."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw
from tiny import tiny_sampler

from framework import (
    REGISTRIES,
    Correspondence,
    Features,
    Injector,
    MaskProvider,
    Masks,
    Matcher,
)
from framework.cli.main import main
from framework.contracts import checks_of, judge
from framework.extractors.diffusion import DiffusionFeatures

PARTS = [
    (kind, name)
    for kind, registry in REGISTRIES.items()
    for name in registry.names()
    if kind != "matcher"  # see test_matchers.py
]
#: What a part cannot do without on the tiny model, by its name.
OPTIONS: dict[str, dict] = {"cross_attention": {"resolution": 4}, "given": {"path": "mask.png"}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a mask's picture, and the current one."""
    image = Image.new("L", (128, 96))
    ImageDraw.Draw(image).ellipse((40, 20, 90, 80), fill=255)
    image.save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def stage_of(pipe, kind):
    def stage(part):
        return tiny_sampler(pipe, **{kind: part})

    return stage


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_passes(sd1, here, kind, name):
    options = dict(OPTIONS.get(name, {}))
    if kind == "injector":
        options |= {"start_step": 1}
    part = REGISTRIES[kind].get(name)(**options)
    verdicts = [judge(check, part) for check in checks_of(kind, stage_of(sd1, kind))]
    assert [verdict for verdict in verdicts if verdict.outcome == "broken"] == []
    assert len(verdicts) >= 3


def broken(kind, part, stage=None):
    verdicts = [judge(check, part) for check in checks_of(kind, stage)]
    return " | ".join(f"{one.promise} {one.text}" for one in verdicts if one.outcome == "broken")


class Drawing(Matcher):
    def match(self, target, reference, masks):
        flow = torch.randn(*target.shape[:3], 2)
        return Correspondence(flow, target.mean(dim=-1).abs().clamp(0, 1).double())


class OfTheBatch(Matcher):
    """Looks at the whole batch."""

    def match(self, target, reference, masks):
        size = target.shape[:3]
        return Correspondence(target.mean() * torch.ones(*size, 2), torch.zeros(size))


class Nothing(Matcher):
    """Forgets to return."""

    def match(self, target, reference, masks):
        pass


class Always(Injector):
    """Takes the reference's values without asking."""

    def attend(self, inputs, correspondence, masks):
        return inputs.reference_value


class Half(MaskProvider):
    """Masks of another data type."""

    def masks(self, height, width, pairs):
        half = torch.full((pairs, height, width), 0.5, dtype=torch.float64)
        return Masks(half, half)


class Long(DiffusionFeatures):
    """Descriptors that are not normalised."""

    def describe(self, step):
        features = super().describe(step)
        return Features(features.target * 2, features.reference)


class Unfaithful(Drawing):
    """Says something else of itself than what it was built from."""

    def __init__(self, level: float = 0.5) -> None:
        self.level = level

    def section(self):
        return super().section() | {"level": 0.25 if self.level == 0.5 else 0.75}


@pytest.mark.parametrize(
    ("kind", "part", "expected"),
    [
        ("matcher", Drawing(), "docstring of Drawing begins with ''"),
        ("matcher", Drawing(), "torch.float64; expected torch.float32"),
        ("matcher", Drawing(), "flows of two equal calls differ by"),
        ("matcher", OfTheBatch(), "flows of pair 0 alone and in a batch of four differ"),
        ("matcher", Nothing(), "gave NoneType; expected Correspondence"),
        ("matcher", Unfaithful(), "rebuilt from"),
        ("matcher", Unfaithful(), "no help for level"),
        ("injector", Always(), "plain attention, where no match is confident, differ"),
    ],
)
def test_what_is_broken_is_said(kind, part, expected):
    assert expected in broken(kind, part)


def test_what_is_broken_in_a_sampler_is_said(sd1):
    text = broken("mask", Half(), stage_of(sd1, "mask"))
    assert "target's mask is torch.float64" in text
    text = broken("extractor", Long(blocks=[r"up_blocks\.1"]), stage_of(sd1, "extractor"))
    assert "norm of the target's descriptors misses 1 by 1" in text


MINE = '''
from framework import Correspondence, Matcher
from matchers.functional import argmax_flow


class Mine(Matcher):
    """Argmax of similarity, sure of everything.

    Args:
        trust: the confidence everywhere.
    """

    def __init__(self, trust: float = 1.0) -> None:
        self.trust = trust

    def match(self, target, reference, masks):
        flow = argmax_flow(target, reference)
        return Correspondence(flow, 0 * flow[..., 0] + self.trust)
'''


def test_the_command(here, capsys):
    (here / "dm_test_check.py").write_text(MINE)
    assert main(["check", "dm_test_check:Mine"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("matcher 'dm_test_check:Mine'") and " 0 broken" in shown
    assert main(["check", "dm_test_check:Mine", "trust=0.25"]) == 1
    assert "confident of 0%" in capsys.readouterr().out
    for words, message in (
        (["dm_test_check:Mine", "trust=x"], "matcher.trust is 'x'; expected a number"),
        (["dm_test_check:Correspondence"], "is no class that derives from"),
        (["none"], "choose one with --kind"),
        (["no_such"], "No part is called 'no_such'"),
        (["--kind", "x", "none"], "--kind is 'x'"),
    ):
        assert main(["check", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_draws_on_the_embedded_model(capsys):
    assert main(["check", "--kind", "mask", "cross_attention"]) == 0
    assert "A picture is drawn with it" in capsys.readouterr().out
