"""Parts inside parts: from YAML, from ``key=value``, from Python; and what is refused."""

from __future__ import annotations

import pytest
import yaml

from framework.config.layers import over
from framework.config.page import load_config
from framework.errors import UserError
from matchers.cycle_argmax import CycleArgmax
from matchers.mutual_nn import MutualNN
from matchers.smooth_flow import SmoothFlow


def test_from_overrides():
    config = load_config(
        None,
        ["matcher=smooth_flow", "matcher.sigma=2", "matcher.matcher.cycle_threshold=0.3"],
    )
    matcher = config.part("matcher")
    assert isinstance(matcher.inner, CycleArgmax)
    assert matcher.config.sigma == 2 and matcher.inner.config.cycle_threshold == 0.3


def test_another_name_inside_forgets_the_options_of_the_old_one():
    base = {"matcher": {"name": "smooth_flow", "matcher": {"cycle_threshold": 0.3}}}
    config = load_config([base], ["matcher.matcher=mutual_nn", "matcher.matcher.tolerance=1"])
    assert config.part("matcher").inner.config == MutualNN(tolerance=1.0).config
    named = load_config([base], ["matcher.matcher.name=mutual_nn"])
    assert isinstance(named.part("matcher").inner, MutualNN)


def test_layers_are_merged_inside():
    base = {"matcher": {"name": "smooth_flow", "matcher": {"name": "soft_argmax", "radius": 2}}}
    config = load_config([base], ["matcher.matcher.temperature=0.1"])
    inner = config.part("matcher").inner.config
    assert (inner.radius, inner.temperature) == (2, 0.1)


def test_interpolations_reach_inside():
    config = load_config(None, ["matcher=smooth_flow", "matcher.sigma=${matcher.tolerance}"])
    assert config.part("matcher").config.sigma == config.part("matcher").config.tolerance


def test_the_resolved_configuration_spells_everything_out_and_reads_back():
    text = load_config(None, ["matcher=smooth_flow"]).to_yaml()
    section = yaml.safe_load(text)["matcher"]
    assert section["matcher"] == {"name": "cycle_argmax", "cycle_threshold": 0.4}
    again = load_config({"base": [], **yaml.safe_load(text)})
    assert again.matcher == section


def test_two_levels():
    config = load_config(
        None,
        ["matcher=smooth_flow", "matcher.matcher=smooth_flow", "matcher.matcher.matcher=mutual_nn"],
    )
    assert isinstance(config.part("matcher").inner.inner, MutualNN)


def test_from_python():
    assert isinstance(SmoothFlow(matcher="mutual_nn").inner, MutualNN)
    ready = MutualNN(tolerance=2.0)
    assert SmoothFlow(matcher=ready).inner is ready
    assert SmoothFlow(matcher={"name": "mutual_nn", "tolerance": 2}).inner.config.tolerance == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("matcher.matcher.cycle_treshold=1", r"'matcher\.matcher\.cycle_treshold'.*'cycle_thresh"),
        ("matcher.matcher=cycle_argmx", "Unknown matcher 'cycle_argmx'.*Did you mean"),
        ("matcher.matcher.cycle_threshold=7", r"matcher\.matcher\.cycle_threshold is 7"),
        ("matcher.matcher.cycle_threshold=high", r"matcher\.matcher\.cycle_threshold is 'high'"),
        ("matcher.matcher=5", r"matcher\.matcher is 5; expected a mapping"),
        ("matcher.matcher=null", r"matcher\.matcher is null; expected a mapping"),
        ("matcher.matcher.cycle_threshold=???", r"matcher\.matcher\.cycle_threshold has no value"),
    ],
)
def test_what_is_wrong_inside_is_refused_with_its_full_key(override, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["matcher=smooth_flow", override])


def test_wrong_options_from_python_are_refused():
    with pytest.raises(UserError, match=r"matcher\.tolerence.*Did you mean 'tolerance'"):
        SmoothFlow(matcher={"name": "mutual_nn", "tolerence": 2})


def test_over():
    assert over({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert over({"name": "x", "b": 1}, {"name": "y"}) == {"name": "y"}
    assert over({"name": "x", "b": 1}, {"name": "x", "c": 2}) == {"name": "x", "b": 1, "c": 2}
    assert over({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}
