"""The calibrated confidence: its curve, where that comes from, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import normalize

from framework.config.page import load_config
from framework.errors import UserError
from framework.interfaces import MATCHERS
from framework.types import Features, Masks
from matchers.calibrated import Calibrated, along
from matchers.cycle_argmax import CycleArgmax
from matchers.soft_argmax import SoftArgmax

PAPER = '{"name": "cycle_argmax", "cycle_threshold": 0.4}'
CURVE = [[0.2, 0.1], [0.6, 0.5], [0.8, 0.5]]


def match(matcher, depth=12):
    generator = torch.Generator().manual_seed(0)
    one, other = (
        normalize(torch.randn(2, 5, 6, depth, generator=generator), dim=-1) for _ in range(2)
    )
    ones = torch.ones(2, 5, 6)
    return matcher(Features(one, other), Masks(ones, ones))


def test_along_a_curve():
    values = torch.tensor([0.0, 0.2, 0.3, 0.6, 0.7, 0.8, 1.0])
    found = along([(0.2, 0.1), (0.6, 0.5), (0.8, 0.5)], values)
    expected = [0.1, 0.1, 0.2, 0.5, 0.5, 0.5, 0.5]
    assert found.tolist() == pytest.approx(expected)
    inside = torch.tensor([0.1, 0.3, 0.5, 0.7], requires_grad=True)
    along([(0.2, 0.1), (0.6, 0.5), (0.8, 0.5)], inside).sum().backward()
    assert inside.grad.tolist() == pytest.approx([0, 1, 1, 0])
    assert along([(0.5, 0.3)], values).tolist() == pytest.approx([0.3] * 7)


def test_the_flow_is_the_inner_one_and_the_order_stays():
    inner = match(SoftArgmax())
    result = match(Calibrated(matcher="soft_argmax", curve=CURVE))
    assert torch.equal(result.flow, inner.flow)
    expected = along([tuple(pair) for pair in CURVE], inner.confidence)
    assert torch.equal(result.confidence, expected)


def test_from_a_configuration():
    config = load_config(
        None,
        [
            "matcher=calibrated",
            "matcher.matcher=smooth_flow",
            "matcher.matcher.matcher=mutual_nn",
            "matcher.curve=[[0,0.1],[1,0.4]]",
        ],
    )
    matcher = config.part("matcher")
    assert matcher.curve == [(0.0, 0.1), (1.0, 0.4)]
    assert type(matcher.inner.inner).__name__ == "MutualNN"


def test_the_papers_presets_keep_its_decision():
    for name in ("presets/paper", "presets/official"):
        assert load_config(name, ["model.path=x"]).matcher["name"] == "cycle_argmax"


def test_every_matcher_without_weights_has_a_measured_curve():
    """Those with weights are measured by whoever has them; `learned` is calibrated in training."""
    for name in MATCHERS.names():
        if name in ("calibrated", "learned", "loftr", "lightglue", "oracle"):
            continue
        if not MATCHERS.get(name).__module__.startswith("matchers."):
            continue  # a plug-in of the test-suite
        found = Calibrated(matcher=name).curve
        assert 0 < found[-1][1] < 1 and found[-1][1] > found[0][1], name


def test_a_file_of_curves(tmp_path):
    path = tmp_path / "calibration.json"
    section = {"name": "cycle_argmax", "cycle_threshold": 0.3}
    path.write_text(json.dumps([{"matcher": section, "curve": [[0, 0.2], [1, 0.7]]}]))
    matcher = Calibrated(matcher=section, curve=str(path))
    assert set(match(matcher).confidence.unique().tolist()) <= {
        torch.tensor(0.2).item(),
        torch.tensor(0.7).item(),
    }
    assert Calibrated(matcher=CycleArgmax(cycle_threshold=0.3), curve=str(path)).curve[1][1] == 0.7
    with pytest.raises(UserError, match=r"only one for cycle_argmax with .*'cycle_threshold': 0.3"):
        Calibrated(curve=str(path))
    with pytest.raises(UserError, match="no curve for the matcher .*it has cycle_argmax"):
        Calibrated(matcher="mutual_nn", curve=str(path))


class Sharp(SoftArgmax):
    def __init__(self, sharpness: float = 2.0, **options) -> None:
        super().__init__(**options)


def test_a_curve_of_a_part_with_a_constructor_of_its_own_fits_its_options_alone(tmp_path):
    path = tmp_path / "calibration.json"
    measured = {"matcher": Sharp(sharpness=3.0).section(), "curve": CURVE}
    path.write_text(json.dumps([measured]))
    assert Calibrated(matcher=Sharp(sharpness=3.0), curve=str(path)).curve
    for other in (Sharp(), Sharp(sharpness=3.0, radius=2)):
        with pytest.raises(UserError, match="only one for .*Sharp with the options"):
            Calibrated(matcher=other, curve=str(path))


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [[0.1, 0.2, 0.3]],
        [[0.5, 0.1], [0.5, 0.2]],
        [[0.0, 0.5], [1.0, 0.4]],
        [[0.0, 0.5], [1.0, 1.4]],
        [["a", 1]],
        3,
        [[0.0, float("nan")]],
    ],
)
def test_what_is_no_curve_is_refused(curve):
    with pytest.raises(UserError, match="curve is .*expected pairs"):
        Calibrated(curve=curve)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("[", "cannot be read"),
        ("{}", "has no curve .*none at all"),
        ('[{"matcher": 1}]', "cannot be read"),
        (
            '[{"matcher": {"name": "cycle_argmax", "cycle_threshold": 0.4}, "curve": [[2, 0]]}]',
            "pairs",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        Calibrated(curve=str(path))
