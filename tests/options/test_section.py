"""``part.section()`` rebuilds an equal part, whatever the part's constructor looks like."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest
import yaml

from framework import (
    REGISTRIES,
    Injector,
    InjectorConfig,
    Matcher,
    PartConfig,
    UserError,
    load_config,
    option,
)
from framework.runs.fingerprint import of_part
from matchers.cycle_argmax import CycleArgmax
from matchers.smooth_flow import SmoothFlow


class Still(Matcher):
    """Finished as far as a matcher has to be."""

    def match(self, target, reference, masks):
        raise NotImplementedError


@dataclass
class TypedConfig(PartConfig):
    level: float = option(0.5, "a level", low=0.0)
    sides: list[int] = option([1, 2], "some sides")


class Typed(Still):
    Config = TypedConfig


class Plain(Still):
    def __init__(self, sharpness: float = 2.0, window: int | None = None, sides=(1, 2)) -> None:
        self.sharpness, self.window, self.sides = sharpness, window, sides


class PassesOn(CycleArgmax):
    def __init__(self, margin: float = 0.1, **options) -> None:
        super().__init__(**options)
        self.margin = margin


class OtherDefault(CycleArgmax):
    """Its own default for an option of its base."""

    def __init__(self, cycle_threshold: float = 0.2, **options) -> None:
        super().__init__(cycle_threshold=cycle_threshold, **options)


class Settles(CycleArgmax):
    """Derives an option of its base from its own."""

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__(cycle_threshold=2 * margin)


class TypedAndOwn(Typed):
    """A Config, and an argument beside it."""

    Config = TypedConfig

    def __init__(self, extra: str = "a", **options) -> None:
        super().__init__(**options)
        self.extra = extra


class WithoutSuper(Typed):
    def __init__(self, extra: str = "a", **options) -> None:
        self.extra = extra


@dataclass(eq=False)
class AsDataclass(Still):
    sharpness: float = 2.0


class Initialised:
    def __init__(self, depth: int = 3, **options) -> None:
        super().__init__(**options)
        self.depth = depth


class Mixed(Initialised, CycleArgmax):
    pass


class OwnInjector(Injector):
    """A constructor that does not think of the options every injector has."""

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def attend(self, inputs, correspondence, masks):
        raise NotImplementedError


class Wraps(SmoothFlow):
    pass


BUILT = [
    Typed(level=0.75, sides=[3]),
    Plain(3.0, sides=[4, 5]),
    Plain(window=7),
    PassesOn(margin=0.5),
    PassesOn(0.5, cycle_threshold=0.3),
    OtherDefault(),
    OtherDefault(cycle_threshold=0.6),
    Settles(margin=0.3),
    TypedAndOwn(extra="b", level=2),
    WithoutSuper(extra="b", level=2),
    AsDataclass(5.0),
    Mixed(depth=4, cycle_threshold=0.1),
    OwnInjector(strength=2.0),
    OwnInjector(layers=["a"], start_step=2, confidence_threshold=0.5),
    Wraps(matcher=PassesOn(margin=0.7), sigma=2.0),
    Wraps(matcher={"name": "mutual_nn", "tolerance": 2}),
]


def rebuilt(part):
    kind = "injector" if isinstance(part, Injector) else "matcher"
    section = dict(yaml.safe_load(yaml.safe_dump(part.section())))
    return REGISTRIES[kind].get(section.pop("name"))(**section)


@pytest.mark.parametrize("part", BUILT, ids=lambda part: type(part).__name__)
def test_an_equal_part_is_built(part):
    again = rebuilt(part)
    assert type(again) is type(part)
    assert again.section() == part.section()
    if not isinstance(part, Wraps):
        assert of_part(again) == of_part(part)


def test_what_it_says():
    assert PassesOn(margin=0.5).section() == {
        "name": f"{__name__}:PassesOn",  # not its base's, which is registered
        "cycle_threshold": 0.4,
        "margin": 0.5,
    }
    assert Plain(3).section()["sharpness"] == 3.0 and Plain().section()["sides"] == [1, 2]
    assert OtherDefault().section()["cycle_threshold"] == 0.2
    assert OtherDefault().config.cycle_threshold == 0.2
    settled = Settles(margin=0.3)
    assert settled.config.cycle_threshold == 0.6 and settled.section()["margin"] == 0.3
    assert TypedAndOwn(extra="b").section()["extra"] == "b"
    assert Wraps(matcher=PassesOn(margin=0.7)).section()["matcher"]["margin"] == 0.7


def test_an_injector_has_the_options_of_all_injectors_without_saying_so():
    part = load_config(None, [f"injector={__name__}:OwnInjector", "injector.start_step=3"]).part(
        "injector"
    )
    assert (part.strength, part.config.start_step) == (1.0, 3)
    assert part.config.layers == InjectorConfig().layers
    with pytest.raises(UserError, match=r"start_step is 0; expected at least 1"):
        OwnInjector(start_step=0)


def test_copies_say_the_same():
    part = PassesOn(margin=0.5)
    for again in (copy.deepcopy(part), pickle.loads(pickle.dumps(Typed(level=2)))):
        assert again.section() in (part.section(), Typed(level=2).section())


def test_options_are_checked_whatever_the_constructor():
    with pytest.raises(UserError, match="sharpness is 'x'; expected a number"):
        Plain(sharpness="x")
    with pytest.raises(UserError, match="Unknown option of Plain 'sharpnes'.*'sharpness'"):
        Plain(sharpnes=1)
    with pytest.raises(UserError, match="Typed was given 1 options without a name, and takes 0"):
        Typed(3)
    assert AsDataclass("3").sharpness == 3.0


def test_a_part_that_no_configuration_can_name_is_still_built():
    class Needy(Still):
        def __init__(self, log) -> None:
            self.log = log

    log = []
    assert Needy(log).log is log
    with pytest.raises(UserError, match="needs a default for 'log'"):
        Needy(log).section()


def test_an_argument_called_name_is_refused():
    class Called(Still):
        def __init__(self, name: str = "x") -> None:
            self.title = name

    with pytest.raises(UserError, match="has an argument 'name'"):
        Called.config_class()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, each in REGISTRIES.items() for name in each.names()]
)
def test_every_registered_part(kind, name, tmp_path):
    options = {"loftr": {"weights": "random"}}.get(name, {})
    part = REGISTRIES[kind].get(name)(**options)
    section = part.section()
    assert section["name"] == name
    again = REGISTRIES[kind].get(name)(**{k: v for k, v in section.items() if k != "name"})
    assert again.section() == section and again.config == part.config
