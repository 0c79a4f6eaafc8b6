"""Every registered part: named, summarised, constructible from a configuration."""

from __future__ import annotations

import dataclasses

import pytest

from framework.cli.listing import describe_options
from framework.options import fill
from framework.registry import REGISTRIES

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
