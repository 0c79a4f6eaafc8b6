"""Variants of a plan -> their resolved configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from framework.config.page import Config, load_config
from framework.errors import UserError, nearest, unknown_name
from framework.experiments.axes import Variant, flat, make_variants, nested
from framework.experiments.cells import digest_of
from framework.experiments.plan_file import PlanFile
from framework.interfaces.injector import InjectorConfig
from framework.registry import REGISTRIES

#: Keys that the plan itself gives, and which are therefore no axes.
OWN = {
    "prompts": "prompts",
    "seeds": "seeds",
    "output": "--output",
    "concept.name": "concepts",
    "concept.path": "concepts",
    "concept.library": "config",
    "plugins": "plugins",
}


class Resolver:
    """Resolves the variants of a plan.

    Args:
        said: the plan's keys.

    Raises:
        UserError: the configuration that all variants share cannot be used.
    """

    def __init__(self, said: PlanFile) -> None:
        self.sources: list[Any] = [{"base": said.base}] if said.base else [None]
        if said.plugins:
            self.sources.append({"plugins": said.plugins})
        self.common = flat(said.config)
        check_keys(self.common, "config")
        self.below = load_config([*self.sources, nested(self.common)])

    def resolve(self, variant: Variant, more: Mapping[str, Any] | None = None) -> Config:
        """A variant's configuration.

        Args:
            variant: what it changes.
            more: changes below it, for one concept.

        Raises:
            UserError: they are wrong; the variant is named.
        """
        own = _kept(self.below, variant) | variant.values
        below = self.common | flat(more or {})
        try:
            config = load_config([*self.sources, nested(below), nested(own)])
        except UserError as error:
            raise UserError(f"Variant '{variant.name}': {error}") from error
        for key in variant.values:
            head, _, option = key.partition(".")
            if head in REGISTRIES and option and option not in getattr(config, head):
                raise unknown_name("key", key, [f"{head}.{o}" for o in getattr(config, head)])
        return config


def variants_of(said: PlanFile) -> list[Variant]:
    """The variants of a plan, each key of them checked.

    Raises:
        UserError: an axis is empty, or names no key of the configuration.
    """
    axes: dict[str, Any] = {}
    if said.variants is not None:
        axes["variant"] = said.variants
    for axis, values in said.vary.items():
        axes[str(axis)] = values
    variants = make_variants(axes, said.exclude)
    for each in variants:
        check_keys(each.values, "vary")
    return variants


def check_keys(values: Mapping[str, Any], where: str) -> None:
    """Refuse keys that are none of the configuration, or that the plan gives itself."""
    sections = [item.name for item in fields(Config)]
    for key in values:
        head = key.partition(".")[0]
        if head not in sections:
            raise UserError(
                f"Unknown configuration key '{key}' in {where}.{nearest(key, _like(key))} "
                f"Sections: {', '.join(sections)}. 'dreammatcher config' prints every key."
            )
        if key in OWN and where == "vary":
            raise UserError(f"'{key}' is no axis; the plan's '{OWN[key]}' says it.")


def _like(key: str) -> list[str]:
    """Sections, each with the option of the unknown key, so that the nearest can be named."""
    rest = key.partition(".")[2]
    return [f"{item.name}.{rest}" if rest else item.name for item in fields(Config)]


def _kept(base: Config, variant: Variant) -> dict[str, Any]:
    """Where and when the injector acts, if the variant changes nothing but which one it is."""
    if variant.values.get("injector.name", "none") == "none":
        return {}
    shared = [item.name for item in fields(InjectorConfig)]
    return {f"injector.{key}": base.injector[key] for key in shared if key in base.injector}


def check_distinct(configs: Mapping[str, Config]) -> None:
    """Refuse two variants whose resolved configurations are the same."""
    seen: dict[str, str] = {}
    for name, config in configs.items():
        digest = digest_of(config)
        if digest in seen:
            raise UserError(
                f"The variants '{seen[digest]}' and '{name}' are the same: their resolved "
                "configurations do not differ. Remove one, or exclude it."
            )
        seen[digest] = name
