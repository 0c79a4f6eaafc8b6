"""A plan: one YAML file -> every picture to draw.

    name: thresholds
    base: [default]                       # configuration(s) every variant starts from
    config: {sampler.guidance_scale: 5}   # changes for all of them
    variants: {plain: {injector: none}, full: {}}    # named variants: the first axis
    vary: {matcher.cycle_threshold: [0.2, 0.4]}      # more axes; see framework.experiments.axes
    exclude: [{injector.name: none, matcher.cycle_threshold: 0.2}]
    baseline: plain                       # the variant the others are compared with
    concepts: all                         # names in concept.library; or name -> its settings
    prompts: ["a photo of a {}"]          # or lists by name, which a concept chooses from
    seeds: [0, 1]
    noise: seed                           # start noise: of the seed alone, as everywhere; cell: of
                                          # concept, prompt and seed, independent between cells
    learn: true                           # false: the model knows the concepts already
    plugins: [my_module]                  # modules whose parts the plan names
    run: {devices: auto}                  # see RunConfig; nothing here changes a picture
    protocols: [corrected]                # how pictures are scored
    scaled: false                         # whether similarities are also put on the scale from
                                          # another object (0) to another real picture (1)
    layout: images/{variant}/{concept}/{prompt:03d}-{seed}.png

``{concept}`` in ``model.path`` and ``concept.weights`` stands for the concept's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.config.page import Config
from framework.errors import UserError, unknown_name
from framework.experiments.axes import Variant, check_count
from framework.experiments.cells import Cell, Setting
from framework.experiments.options import RunConfig, placed
from framework.experiments.plan_file import read_plan_file
from framework.experiments.subjects import Subjects, check_unique_files, plan_concepts
from framework.experiments.variants import Resolver, check_distinct, variants_of
from framework.metrics.protocols import PROTOCOLS
from framework.training.personalize import one_device
from framework.types import Concept


@dataclass(frozen=True)
class Plan:
    """Every picture of an ablation.

    Attributes:
        name: of the plan.
        description: a sentence for the report.
        variants: in the order of tables.
        baseline: name of the variant the others are compared with.
        concepts: by name.
        settings: every variant with every concept.
        learn: whether concepts are learned; else the model is used as it is (or with
            ``concept.weights``).
        run: where and how it runs.
        protocols: names of the scoring protocols.
        scaled: whether similarities are put on the scale, too.
        config: the first variant's configuration without a concept: model and evaluation.
    """

    name: str
    description: str
    variants: tuple[Variant, ...]
    baseline: str
    concepts: Mapping[str, Concept] = field(repr=False)
    settings: tuple[Setting, ...] = field(repr=False)
    learn: bool
    run: RunConfig
    protocols: tuple[str, ...]
    scaled: bool
    config: Config = field(repr=False)

    @property
    def cells(self) -> list[Cell]:
        """All pictures."""
        return [cell for setting in self.settings for cell in setting.cells]

    @property
    def identity(self) -> str:
        """Hash of all cells."""
        text = "\n".join(sorted(cell.id for cell in self.cells))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_plan(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Plan:
    """Read, resolve and check a plan.

    Args:
        source: a file, the name of a shipped plan (``components`` or ``ablations/components``), or
            a mapping.
        overrides: ``key=value``: keys of the plan (``seeds=[0,1]``, ``run.devices=2``) or, with any
            other key, of the configuration of all variants.

    Raises:
        UserError: whatever in it cannot be used.
    """
    said = read_plan_file(source, overrides)
    variants = variants_of(said)
    resolver = Resolver(said)
    configs = {each.name: resolver.resolve(each) for each in variants}
    check_distinct(configs)
    first = next(iter(configs.values()))
    entries = plan_concepts(said.concepts, first.concept.library)
    check_count(len(variants) * len(entries) * len(said.seeds))
    run = placed(said.run, first.model.device)
    subjects = Subjects(said)
    settings = []
    for name, entry in entries.items():
        for each in variants:
            own = entry.get("config")
            config = resolver.resolve(each, own) if own else configs[each.name]
            settings.append(subjects.setting(each, name, entry, config))
    check_unique_files(settings)
    if said.learn:
        for setting in settings:
            one_device(setting.config)
    return Plan(
        name=said.name,
        description=said.description,
        variants=tuple(variants),
        baseline=_baseline(said.baseline, variants),
        concepts=subjects.first,
        settings=tuple(settings),
        learn=said.learn,
        run=run,
        protocols=tuple(_protocols(said.protocols)),
        scaled=said.scaled,
        config=first,
    )


def _baseline(name: str | None, variants: list[Variant]) -> str:
    names = [each.name for each in variants]
    if name is None:
        return names[0]
    if name not in names:
        raise unknown_name("variant in baseline:", name, names)
    return name


def _protocols(names: list[str]) -> list[str]:
    if not names:
        raise UserError(f"protocols is empty; give at least one of {', '.join(PROTOCOLS)}.")
    for name in names:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", str(name), PROTOCOLS)
    return list(dict.fromkeys(names))
