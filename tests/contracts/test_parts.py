"""Every registered part: named, summarised, constructible from a configuration."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from framework.cli.listing import describe_options
from framework.errors import UserError
from framework.interfaces import MaskProvider, Matcher
from framework.options import fill
from framework.registry import REGISTRIES
from framework.types import Features, Masks

PARTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_part(kind, name):
    cls = REGISTRIES[kind].get(name)
    assert cls.name == name
    assert len(cls.summary()) > 10 and cls.summary().endswith((".", ")."))
    config = fill(kind, cls.config_class(), {})
    options = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    part = cls(**options)
    assert part.config == config or type(part).__init__ is not cls.__mro__[-2].__init__
    for option, _, _, text in describe_options(cls.config_class()):
        assert text, f"{kind} '{name}': option {option} has no help"


def test_a_forgotten_return_is_said():
    class Forgetful(Matcher):
        """Returns nothing."""

        def match(self, target, reference, masks):
            self.matched = masks

    class Blank(MaskProvider):
        """Returns nothing."""

        def masks(self, height, width, pairs):
            self.made = height

    grid, ones = torch.ones(1, 2, 2, 3), torch.ones(1, 2, 2)
    with pytest.raises(UserError, match="match gave NoneType; expected Correspondence"):
        Forgetful()(Features(grid, grid), Masks(ones, ones))
    with pytest.raises(UserError, match="Blank.masks gave NoneType; expected Masks. Is a"):
        Blank()(2, 2, 1)
