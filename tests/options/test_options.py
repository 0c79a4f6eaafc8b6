from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from framework.cli.listing import describe_options
from framework.errors import UserError
from framework.interfaces import Matcher
from framework.options import PartConfig, fill, option, options_of
from matchers.cycle_argmax import CycleArgmax

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Sample(PartConfig):
    steps: int = option(50, "denoising steps", low=1, high=1000)
    scale: float = option(7.5, "strength", low=0.0)
    limit: int | None = option(None, "none means no limit", low=1)
    kind: str = option("l2", "distance", choices=("l2", "mse"))
    layers: list[str] = option(["a"], "patterns")
    sides: list[int] = option([8], "pixels", low=8)
    on: bool = option(True, "switch")


def refusal(section: str, cls: type, options) -> str:
    with pytest.raises(UserError) as caught:
        fill(section, cls, options)
    return str(caught.value)


def test_values_are_converted():
    made = fill("s", Sample, {"steps": "7", "scale": 2, "on": "no", "layers": ["x", "y"]})
    assert (made.steps, made.scale, made.on, made.layers) == (7, 2.0, False, ["x", "y"])
    assert isinstance(made.scale, float)


def test_defaults_are_not_shared():
    Sample().layers.append("b")
    assert Sample().layers == ["a"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": "abc"}, "s.steps is 'abc'; expected an integer."),
        ({"steps": 2.5}, "s.steps is 2.5; expected an integer."),
        ({"steps": None}, "s.steps is null; expected an integer."),
        ({"steps": [1]}, "s.steps is [1]; expected an integer."),
        ({"steps": 0}, "s.steps is 0; expected a value in [1, 1000]."),
        ({"scale": -1}, "s.scale is -1; expected at least 0."),
        ({"scale": float("inf")}, "s.scale is inf; expected a finite number."),
        ({"scale": float("nan")}, "s.scale is nan; expected a finite number."),
        ({"limit": 0}, "s.limit is 0; expected at least 1."),
        ({"limit": "x"}, "s.limit is 'x'; expected an integer or null."),
        ({"layers": "x"}, "s.layers is 'x'; expected a list of texts."),
        ({"sides": [16, 4]}, "s.sides is 4; expected at least 8."),
        ({"sides": ["a"]}, "s.sides is ['a']; expected a list of integers."),
        ({"on": "maybe"}, "s.on is 'maybe'; expected true or false."),
        ({"steps": "???"}, "s.steps has no value yet; give one: s.steps=..."),
        ({"kind": "mes"}, "s.kind is 'mes'; expected one of 'l2', 'mse'. Did you mean 'mse'?"),
    ],
)
def test_bad_values_are_refused_with_their_full_key(options, expected):
    assert refusal("s", Sample, options) == expected


def test_unknown_key_names_the_nearest():
    text = refusal("s", Sample, {"step": 3})
    assert text.startswith("Unknown key 's.step'. Did you mean 'steps'? Known: steps, scale")


def test_options_must_be_a_mapping():
    assert refusal("s", Sample, [1]) == "s is [1]; expected a mapping of options."
    assert refusal("s", Sample, None) == "s is null; expected a mapping of options."


def test_errors_of_a_part_s_own_check_carry_the_section():
    @dataclass
    class Odd(PartConfig):
        size: int = option(1, "an odd number")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.size % 2 == 0:
                raise ValueError(f"size is {self.size}; expected an odd number.")

    assert refusal("matcher", Odd, {"size": 2}) == "matcher.size is 2; expected an odd number."


def test_direct_construction_checks_too():
    with pytest.raises(UserError, match="cycle_threshold is 'abc'; expected a number"):
        CycleArgmax(cycle_threshold="abc")
    with pytest.raises(UserError, match=r"cycle_threshold is 2; expected a value in \[0, 1\]"):
        CycleArgmax(cycle_threshold=2)


class Plain(Matcher):
    """A matcher with its own constructor.

    Args:
        sharpness: how steep the confidence is.
    """

    def __init__(self, sharpness: float = 2.0, window: int | None = None, sides=(1, 2)) -> None:
        self.sharpness, self.window, self.sides = sharpness, window, sides

    def match(self, target, reference, masks):
        raise NotImplementedError


def test_options_are_read_off_a_constructor():
    config = Plain.config_class()()
    assert options_of(config) == {"sharpness": 2.0, "window": None, "sides": (1, 2)}
    assert refusal("matcher", Plain.config_class(), {"sharpness": "x"}) == (
        "matcher.sharpness is 'x'; expected a number."
    )
    rows = describe_options(Plain.config_class())
    assert rows[0] == ("sharpness", "float", "2.0", "how steep the confidence is.")
    assert rows[1][:3] == ("window", "int | None", "null")
    made = Plain(**options_of(fill("matcher", Plain.config_class(), {"window": "3"})))
    assert (made.sharpness, made.window) == (2.0, 3)


def test_constructor_that_passes_options_on_keeps_those_of_its_base():
    class Stricter(CycleArgmax):
        def __init__(self, margin: float = 0.1, **options) -> None:
            super().__init__(**options)
            self.margin = margin

    made = Stricter(**options_of(fill("matcher", Stricter.config_class(), {"margin": 0.5})))
    assert (made.margin, made.config.margin, made.config.cycle_threshold) == (0.5, 0.5, 0.4)
    assert refusal("matcher", Stricter.config_class(), {"cycle_threshold": 3}).startswith(
        "matcher.cycle_threshold is 3"
    )


def test_subclass_without_constructor_inherits_options():
    class Same(CycleArgmax):
        pass

    assert Same.config_class() is CycleArgmax.Config
    assert Same(cycle_threshold=0.1).config.cycle_threshold == 0.1


def test_a_mixin_does_not_hide_options():
    class Mixin:
        pass

    class Mixed(Mixin, CycleArgmax):
        pass

    assert Mixed.config_class() is CycleArgmax.Config


def test_constructor_argument_without_default_is_refused():
    class Needy(Matcher):
        def __init__(self, side) -> None:
            self.side = side

    with pytest.raises(UserError, match="needs a default for 'side'"):
        Needy.config_class()


def test_types_that_yaml_cannot_hold_are_taken_as_they_are():
    class Exotic(Matcher):
        def __init__(self, level: Decimal | None = None) -> None:
            self.level = level

    assert fill("matcher", Exotic.config_class(), {"level": "x"}).level == "x"


def test_defaults_that_yaml_cannot_hold_are_refused():
    class Exotic(Matcher):
        def __init__(self, table=frozenset()) -> None:
            self.table = table

    with pytest.raises(UserError, match="default of 'table'.*cannot stand in a YAML file"):
        Exotic.config_class()


def test_descriptions_give_type_default_and_range():
    class Described(Matcher):
        Config = Sample

    rows = {row[0]: row[1:] for row in describe_options(Described.config_class())}
    assert rows["steps"] == ("int", "50", "denoising steps (1 to 1000)")
    assert rows["scale"] == ("float", "7.5", "strength (at least 0)")
    assert rows["kind"] == ("str", "'l2'", "distance (one of l2, mse)")
    assert rows["layers"] == ("list[str]", "['a']", "patterns")
    assert rows["on"][1] == "true"
