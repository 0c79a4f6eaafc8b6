"""A plan: one YAML file -> every picture to draw.

    name: thresholds
    base: [default]                       # configuration(s) every variant starts from
    config: {sampler.guidance_scale: 5}   # changes for all of them
    variants: {plain: {injector: none}, full: {}}    # named variants: the first axis
    vary: {matcher.cycle_threshold: [0.2, 0.4]}      # more axes; see framework.ablation.axes
    exclude: [{injector.name: none, matcher.cycle_threshold: 0.2}]
    baseline: plain                       # the variant the others are compared with
    concepts: all                         # names in concept.library; or name -> its settings
    prompts: ["a photo of a {}"]          # or lists by name, which a concept chooses from
    seeds: [0, 1]
    learn: true                           # false: the model knows the concepts already
    run: {devices: auto}                  # see RunConfig; nothing here changes a picture
    protocols: [corrected]                # how pictures are scored

``{concept}`` in ``model.path`` and ``concept.weights`` stands for the concept's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from framework.ablation.axes import Variant, flat, make_variants, nested
from framework.ablation.cells import Cell, Setting, cell_id, digest_of, slug
from framework.ablation.options import RunConfig
from framework.concepts import list_concepts, load_concept
from framework.config import ConceptConfig, Config, load_config
from framework.config_layers import Layer, plain
from framework.errors import UserError, nearest, unknown_name
from framework.interfaces.injector import InjectorConfig
from framework.metrics.protocols import PROTOCOLS
from framework.options import options_of
from framework.registry import REGISTRIES
from framework.resources import config_file
from framework.text import fill
from framework.typed import fill as fill_options
from framework.typed import shown
from framework.types import Concept

ALL = "all"
FOLDER = "ablations"
#: Keys that the plan itself gives, and which are therefore no axes.
OWN = {
    "prompts": "prompts",
    "seeds": "seeds",
    "output": "--output",
    "concept.name": "concepts",
    "concept.path": "concepts",
    "concept.library": "config",
    "plugins": "config",
}
PER_CONCEPT = ("path", "class_name", "placeholder", "weights", "reference", "prompts", "config")


@dataclass
class PlanFile:
    """The keys of a plan; see the module."""

    name: str = "ablation"
    description: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    variants: Any = None
    vary: dict[str, Any] = field(default_factory=dict)
    exclude: list[Any] = field(default_factory=list)
    baseline: str | None = None
    concepts: Any = ALL
    prompts: Any = None
    seeds: list[int] = field(default_factory=lambda: [0])
    learn: bool = True
    run: RunConfig = field(default_factory=RunConfig)
    protocols: list[str] = field(default_factory=lambda: ["corrected"])
    curve: str | None = None


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
        curve: the swept key that plots connect by a line, if any.
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
    curve: str | None
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
    raw = dict(source) if isinstance(source, Mapping) else _read(source)
    raw = plain(raw)
    bases = raw.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    raw = _overridden(raw, overrides)
    run = fill_options("run", RunConfig, raw.pop("run", None) or {})
    options = _typed(raw) | {"run": run}
    said = PlanFile(**options)
    common = flat(said.config)
    _check_axes(common, "config")
    variants = _variants(said)
    below = load_config([*_sources(bases), nested(common)])
    configs = {each.name: _resolve(bases, common, each, below) for each in variants}
    first = next(iter(configs.values()))
    _check_distinct(configs)
    names, entries = _concepts(said.concepts, first.concept.library)
    concepts: dict[str, Concept] = {}
    settings: list[Setting] = []
    loaded: dict[str, Concept] = {}
    for name in names:
        entry = entries[name]
        for each in variants:
            config = configs[each.name]
            if entry.get("config"):
                config = _resolve(bases, common | flat(entry["config"]), each, below)
            config = replace(config, concept=_concept_section(config, name, entry))
            key = f"{config.concept} {config.personalizer}"
            if key not in loaded:
                loaded[key] = load_concept(_resolved_weights(config, name))
            concepts.setdefault(name, loaded[key])
            config = _with_reference(config, entry, loaded[key])
            config = replace(config, model=replace(config.model, path=_at(config.model.path, name)))
            prompts = _prompts(said.prompts, entry, name)
            settings.append(_setting(each, name, loaded[key], config, prompts, said))
    _check_unique_files(settings)
    return Plan(
        name=said.name,
        description=said.description,
        variants=tuple(variants),
        baseline=_baseline(said.baseline, variants),
        concepts=concepts,
        settings=tuple(settings),
        learn=said.learn,
        run=run,
        protocols=tuple(_protocols(said.protocols)),
        curve=said.curve,
        config=first,
    )


# -------------------------------------------------------------------- the file


def plan_file(name: str | Path) -> Path:
    """A plan by path or by its name below ``configs/ablations``."""
    text = str(name)
    if not Path(text).expanduser().is_file() and "/" not in text:
        bare = text.removesuffix(".yaml").removesuffix(".yml")
        return config_file(f"{FOLDER}/{bare}")
    return config_file(name)


def _read(name: str | Path) -> Layer:
    from framework.config_layers import _yaml

    return _yaml(plan_file(name))


def _overridden(raw: Layer, overrides: Sequence[str]) -> Layer:
    from framework.config_layers import from_override

    known = {item.name for item in fields(PlanFile)}
    merged = dict(raw)
    config = flat(_mapping("config", raw.get("config")))
    for text in overrides:
        key = text.partition("=")[0].strip()
        head, _, rest = key.partition(".")
        value: Any = from_override(text)
        for part in key.split("."):
            value = value[part]
        if head == "run" and rest:
            merged["run"] = {**_mapping("run", merged.get("run")), rest: value}
        elif key in known and key != "config":
            merged[key] = value
        else:
            config |= flat({key.removeprefix("config."): value})
    merged["config"] = config
    return merged


def _typed(raw: Layer) -> dict[str, Any]:
    known = [item.name for item in fields(PlanFile)]
    for key in raw:
        if key not in known:
            raise unknown_name("key of the plan", str(key), [*known, "base"])
    for key, kinds, words in (
        ("name", str, "text"),
        ("description", str, "text"),
        ("vary", Mapping, "a mapping: axis -> its values"),
        ("protocols", list, "a list of names"),
        ("seeds", list, "a list of integers"),
        ("learn", bool, "true or false"),
    ):
        if raw.get(key) is None:
            raw.pop(key, None)
        elif not isinstance(raw[key], kinds):
            raise UserError(f"{key} is {shown(raw[key])}; expected {words}.")
    for key in ("config",):
        raw[key] = _mapping(key, raw.get(key))
    seeds = raw.get("seeds", [0])
    if not seeds:
        raise UserError("The plan is empty: seeds has no entry; give at least one, e.g. [0].")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise UserError(f"seeds has {shown(seed)}; expected integers of at least 0.")
        if seeds.count(seed) > 1:
            raise UserError(f"seeds has {seed} twice; give each once.")
    return raw


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{key} is {shown(value)}; expected a mapping.")
    return dict(value or {})


# -------------------------------------------------------------------- variants


def _variants(said: PlanFile) -> list[Variant]:
    axes: dict[str, Any] = {}
    if said.variants is not None:
        axes["variant"] = said.variants
    for axis, values in said.vary.items():
        axes[str(axis)] = values
    variants = make_variants(axes, said.exclude)
    for each in variants:
        _check_axes(each.values, "vary")
    return variants


def _check_axes(values: Mapping[str, Any], where: str) -> None:
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


def _sources(bases: list[str]) -> list[Any]:
    return [{"base": bases}] if bases else [None]


def _resolve(
    bases: list[str], common: Mapping[str, Any], variant: Variant, below: Config
) -> Config:
    own = _kept(below, variant) | variant.values
    try:
        config = load_config([*_sources(bases), nested(common), nested(own)])
    except UserError as error:
        raise UserError(f"Variant '{variant.name}': {error}") from error
    for key in variant.values:
        head, _, option = key.partition(".")
        if head in REGISTRIES and option and option not in getattr(config, head):
            raise unknown_name("key", key, [f"{head}.{o}" for o in getattr(config, head)])
    return config


def _kept(base: Config, variant: Variant) -> dict[str, Any]:
    """Where and when the injector acts, if the variant changes nothing but which one it is."""
    if variant.values.get("injector.name", "none") == "none":
        return {}
    shared = [item.name for item in fields(InjectorConfig)]
    return {f"injector.{key}": base.injector[key] for key in shared if key in base.injector}


def _check_distinct(configs: Mapping[str, Config]) -> None:
    seen: dict[str, str] = {}
    for name, config in configs.items():
        digest = digest_of(config)
        if digest in seen:
            raise UserError(
                f"The variants '{seen[digest]}' and '{name}' are the same: their resolved "
                "configurations do not differ. Remove one, or exclude it."
            )
        seen[digest] = name


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


# -------------------------------------------------------------------- concepts and prompts


def _concepts(said: Any, library: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    known = list_concepts(library)
    if said == ALL:
        if not known:
            raise UserError(
                f"The plan is empty: the library '{library}' has no concept. Give another with "
                "concept.library=FOLDER, one folder of pictures for each concept."
            )
        return known, {name: {} for name in known}
    if isinstance(said, str):
        said = [word.strip() for word in said.split(",") if word.strip()]
    if isinstance(said, list):
        said = {str(name): {} for name in dict.fromkeys(said)}
    if not isinstance(said, Mapping) or not said:
        raise UserError(
            f"The plan is empty: concepts is {shown(said)}; expected 'all', a list of names, or a "
            "mapping of names to settings."
        )
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in said.items():
        entries[str(name)] = _mapping(f"concepts.{name}", entry)
        _mapping(f"concepts.{name}.config", entries[str(name)].get("config"))
        for key in entries[str(name)]:
            if key not in PER_CONCEPT:
                raise unknown_name(f"key in concepts.{name}:", str(key), PER_CONCEPT)
        if "path" not in entries[str(name)] and name not in known:
            raise unknown_name("concept", str(name), known)
    return list(entries), entries


def _concept_section(config: Config, name: str, entry: Mapping[str, Any]) -> ConceptConfig:
    given = {key: entry[key] for key in ("path", "class_name", "placeholder", "weights")
             if key in entry}  # fmt: skip
    plain_section = options_of(config.concept) | {"name": name} | given
    return fill_options(f"concepts.{name}", ConceptConfig, plain_section)


def _with_reference(config: Config, entry: Mapping[str, Any], concept: Concept) -> Config:
    config = _resolved_weights(config, config.concept.name or concept.name)
    if entry.get("reference") is None:
        return config
    files = [path.name for path in concept.sources]
    if entry["reference"] not in files:
        raise unknown_name(f"reference of {concept.name}", str(entry["reference"]), files)
    if config.sampler.reference_index:
        return config  # a variant chooses another
    index = files.index(entry["reference"])
    return replace(config, sampler=replace(config.sampler, reference_index=index))


def _resolved_weights(config: Config, concept: str) -> Config:
    """The configuration with the concept's name put into the path of its weights."""
    weights = config.concept.weights
    if weights is None:
        return config
    return replace(config, concept=replace(config.concept, weights=_at(weights, concept)))


def _at(text: str, concept: str) -> str:
    return text.replace("{concept}", concept)


def _prompts(said: Any, entry: Mapping[str, Any], concept: str) -> list[str]:
    chosen = entry.get("prompts", said)
    if isinstance(chosen, str) and isinstance(said, Mapping):
        if chosen not in said:
            raise unknown_name(f"prompt list of concept '{concept}'", chosen, said)
        chosen = said[chosen]
    if isinstance(chosen, Mapping):
        raise UserError(
            f"prompts has lists by name ({', '.join(map(str, chosen))}), but the concept "
            f"'{concept}' does not say which is its: concepts: {{{concept}: {{prompts: NAME}}}}."
        )
    if not isinstance(chosen, list) or not chosen or not all(isinstance(t, str) for t in chosen):
        raise UserError(
            f"The plan is empty: prompts is {shown(chosen)}; expected a list of at least one text "
            "such as 'a photo of a {}'."
        )
    for text in chosen:
        if chosen.count(text) > 1:
            raise UserError(f"prompts has '{text}' twice; give each once.")
    return list(chosen)


def _pictures(concept: Concept) -> str:
    digest = hashlib.sha256(f"{concept.placeholder}\0{concept.class_name}".encode())
    for image in concept.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def _setting(
    variant: Variant,
    name: str,
    concept: Concept,
    config: Config,
    prompts: list[str],
    said: PlanFile,
) -> Setting:
    index = config.sampler.reference_index
    if index >= len(concept.images):
        raise UserError(
            f"Variant '{variant.name}': sampler.reference_index is {index}, but concept '{name}' "
            f"has {len(concept.images)} picture(s), numbered from 0."
        )
    for text in prompts:
        fill(text, concept)
    digest = digest_of(config, _pictures(concept), said.run.precision, said.learn)
    cells = tuple(
        Cell(
            id=cell_id(digest, text, seed),
            variant=variant.name,
            concept=name,
            prompt_index=place,
            prompt=text,
            seed=seed,
            file=f"images/{slug(variant.name)}/{slug(name)}/{place:03d}-{seed}.png",
        )
        for place, text in enumerate(prompts)
        for seed in said.seeds
    )
    return Setting(variant.name, name, config, concept, digest, cells)


def _check_unique_files(settings: Sequence[Setting]) -> None:
    places: dict[str, tuple[str, str]] = {}
    for each in settings:
        place = f"{slug(each.variant)}/{slug(each.concept)}"
        if place in places:
            raise UserError(
                f"{places[place]} and {(each.variant, each.concept)} would be written to one "
                "folder; give them names that differ in letters and digits."
            )
        places[place] = (each.variant, each.concept)
