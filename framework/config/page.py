"""Configuration: YAML files and ``key=value`` overrides -> checked, typed values.

A file may begin with ``base: [names or paths]``; those are merged first, in order. A file without
``base`` is merged over the shipped default; ``base: []`` starts from the defaults of the classes.
Each part has a section of its kind (``matcher: {name: cycle_argmax, cycle_threshold: 0.4}``); a
section that changes ``name`` starts from that part's own defaults, keeping nothing of the part it
replaces. ``${section.key}`` stands for another value.
The personalizer of a name starts from its entry in ``personalizers``, if that has one, so that a
method brings the settings that suit the model; that section is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from framework.config.cache import CacheConfig
from framework.config.evaluation import EvaluationConfig
from framework.config.layers import (
    Layer,
    from_override,
    has_base,
    merge,
    over,
    plain,
    read_file,
    resolved,
    with_bases,
)
from framework.config.resources import config_file
from framework.config.sampler import SamplerConfig
from framework.config.sources import foreign_sources
from framework.errors import UserError, shown, unknown_name
from framework.options import PartConfig, as_yaml, build, default_of, fill, option
from framework.registry import REGISTRIES, import_plugin

DEFAULT = "default"
DTYPES = ("float32", "float16", "bfloat16")
#: The largest seed torch's generators take.
MAX_SEED = 2**63 - 1

Source = str | Path | Mapping[str, Any] | DictConfig


@dataclass
class ModelConfig(PartConfig):
    """The pipeline to load."""

    path: str = option(
        "package:framework.toyworld/weights", "hub name, folder, or package:NAME/PATH"
    )
    variant: str | None = option(None, "file variant such as fp16")
    dtype: str = option("float32", "data type of the weights", choices=DTYPES)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    channels_last: bool = option(False, "memory format of the network")
    notes: dict[str, str] = option({}, "model path -> what to tell who uses it with own pictures")


@dataclass
class ConceptConfig(PartConfig):
    """The concept: a folder of pictures, or a name in a library of such folders."""

    name: str | None = option(None, "folder name in the library")
    library: str = option("package:framework.toyworld/concepts_data", "folder of concept folders")
    path: str | None = option(None, "folder of pictures; overrides name")
    placeholder: str | None = option(None, "word(s) for the concept; null: <NAME>")
    class_name: str | None = option(None, "plain noun; null: as the folder's concept.yaml says")
    weights: str | None = option(None, "learned weights; null: the model as it is")


@dataclass
class Config(PartConfig):
    """The whole configuration; part sections are mappings with ``name`` and the part's options."""

    plugins: list[str] = option([], "modules to import first; they register parts")
    model: ModelConfig = option(ModelConfig(), "the pipeline")
    concept: ConceptConfig = option(ConceptConfig(), "the object")
    concepts: list[ConceptConfig] = option([], "several objects in one picture, in place of one")
    sampler: SamplerConfig = option(SamplerConfig(), "the sampling loop")
    cache: CacheConfig = option(CacheConfig(), "where the reference's results are kept")
    evaluation: EvaluationConfig = option(EvaluationConfig(), "the encoders that judge pictures")
    personalizer: Any = option({"name": "textual_inversion"}, "see list", part="personalizer")
    trajectory: Any = option({"name": "ddim_inversion"}, "see list", part="trajectory")
    extractor: Any = option({"name": "diffusion"}, "see list", part="extractor")
    mask: Any = option({"name": "cross_attention"}, "see list", part="mask")
    matcher: Any = option({"name": "cycle_argmax"}, "see list", part="matcher")
    injector: Any = option({"name": "appearance_matching"}, "see list", part="injector")
    guidance: Any = option({"name": "none"}, "see list", part="guidance")
    personalizers: dict[str, Any] = option({}, "method -> the options that suit the model")
    prompts: list[str] = option(["a photo of a {}"], "with {} where the object stands")
    seeds: list[int] = option([0], "one picture for each prompt and seed")
    seed: int = option(0, "of training and of everything else")
    output: str | None = option(None, "folder of the results; null: the command's own")
    sources: dict[str, str] = option({}, "hashes of the plug-ins' source; computed, never read")

    def __post_init__(self) -> None:
        super().__post_init__()
        sections = [(kind, getattr(self, kind)) for kind in KINDS]
        loop = self.sampler.loop.partition(":")[0]
        self.sources = foreign_sources(sections, [*self.plugins, loop])
        for name in ("prompts", "seeds"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; give at least one.")
        for name, value in (*(("seeds", seed) for seed in self.seeds), ("seed", self.seed)):
            if not 0 <= value <= MAX_SEED:
                raise UserError(f"{name} has {value}; expected integers from 0 to {MAX_SEED}.")
        if self.concepts and (self.concept.path or self.concept.name or self.concept.weights):
            raise UserError(
                "The configuration has both concept and concepts; name one object in concept, or "
                "several in concepts."
            )

    def part(self, kind: str, **options: Any) -> Any:
        """Build the part of one kind, e.g. ``config.part("matcher")``; options override."""
        return build(kind, getattr(self, kind), **options)

    def to_yaml(self) -> str:
        """The resolved configuration as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(to_plain(self)))


#: Sections that describe a part.
KINDS = tuple(item.name for item in fields(Config) if item.metadata["part"])


def load_config(
    source: Source | Config | Sequence[Source] | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Read, merge and check a configuration.

    Args:
        source: a file, the name of a shipped configuration, a mapping (merged over the default),
            several of these (later ones win), or None for the default.
        overrides: ``key=value`` pairs, applied last; those that name a part before the others, so
            that ``matcher.tau=1 matcher=mine`` keeps the option.

    Raises:
        UserError: an unknown key, part or type (with the nearest valid name), a value out of range.
            Errors inside a plug-in module are raised as they are.
    """
    if isinstance(source, Config):
        merged = to_plain(source)
    else:
        several = isinstance(source, Sequence) and not isinstance(source, str)
        sources = list(source) if several else [source]  # type: ignore[arg-type]
        merged = _layer(sources[0] if sources else None, first=True)
        for item in sources[1:]:
            merged = merge(merged, _layer(item), KINDS)
    for layer in _names_first([from_override(text) for text in overrides]):
        merged = merge(merged, layer, KINDS)
    return _typed(merged)


def _names_first(layers: list[Layer]) -> list[Layer]:
    """Overrides with those that name a part first, so that no option is lost by their order."""

    def names(layer: Layer) -> bool:
        ((key, value),) = layer.items()
        return key in KINDS and (not isinstance(value, Mapping) or "name" in value)

    return sorted(layers, key=lambda layer: not names(layer))


def to_plain(config: Config) -> Layer:
    """The configuration as nested dicts and lists; without ``sources`` where there are none."""
    plain = as_yaml(config)
    if not config.sources:
        del plain["sources"]
    return plain


def _layer(source: Any, first: bool = False) -> Layer:
    """One source as a mapping; the first stands on the default unless it names its bases."""
    if source is None:
        return read_file(config_file(DEFAULT), KINDS)
    if isinstance(source, str | Path):
        path = config_file(source)
        layer, stands_alone = read_file(path, KINDS), has_base(path)
    elif isinstance(source, Mapping | DictConfig):
        data = plain(source)
        layer, stands_alone = with_bases(data, Path.cwd(), KINDS), "base" in data
    else:
        raise UserError(
            f"A configuration is a file, a shipped name or a mapping; got {type(source).__name__}."
        )
    if first and not stands_alone:
        return merge(_layer(None), layer, KINDS)
    return layer


def _typed(data: Layer) -> Config:
    known = [item.name for item in fields(Config)]
    for key in data:
        if key not in known:
            raise unknown_name("configuration key", str(key), known)
    _import_plugins(resolved(data, ["plugins"]).get("plugins"))
    complete = resolved(_with_defaults(data))
    _check_methods(complete["personalizers"])
    complete["concepts"] = _concepts(complete["concepts"], complete["concept"])
    return fill("", Config, complete)


def _concepts(entries: Any, alone: Any) -> list[Layer]:
    """Several concepts, from the library of ``concept`` unless they name another."""
    if not isinstance(entries, list) or not all(isinstance(each, Mapping) for each in entries):
        raise UserError(
            f"concepts is {shown(entries)}; expected a list of mappings as in the section concept, "
            "e.g. concepts: [{path: photos/mug, class_name: mug, weights: mug.safetensors}, ...]."
        )
    library = alone if isinstance(alone, Mapping) else {}
    shared = {key: library[key] for key in ("library",) if key in library}
    return [shared | dict(each) for each in entries]


def _import_plugins(modules: Any) -> None:
    if not isinstance(modules, list | None) or not all(isinstance(m, str) for m in modules or []):
        raise UserError(f"plugins is {modules!r}; expected a list of module names.")
    for module in modules or []:
        import_plugin(module)


def _with_defaults(data: Layer) -> Layer:
    """Every section and option spelled out, so that ``${...}`` may name any of them."""
    complete = merge(_defaults(Config), data, KINDS)
    if complete["plugins"] is None:
        complete["plugins"] = []
    for kind in KINDS:
        complete[kind] = _part_section(kind, complete)
    return complete


def _part_section(kind: str, data: Layer) -> Layer:
    """A part's section with the part's own defaults below what was given."""
    section = data[kind]
    if isinstance(section, str):  # an interpolation
        section = resolved(data, [kind])[kind]
        section = {"name": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping) or "name" not in section:
        raise UserError(
            f"{kind} is {shown(section)}; expected a mapping with a name, e.g. "
            f"{kind}: {{name: {REGISTRIES[kind].names()[0]}}}."
        )
    name = section["name"]
    if not isinstance(name, str):
        raise UserError(
            f"{kind}.name is {shown(name)}; expected text, e.g. {REGISTRIES[kind].names()[0]}."
        )
    if "${" in name:
        name = resolved(data | {"name": name}, ["name"])["name"]
    cls = _options_class(kind, name)
    defaults, section = _defaults(cls), dict(section)
    for item in fields(cls):
        one = item.metadata.get("part") and not item.metadata.get("several")
        if one and isinstance(section.get(item.name), Mapping):
            section[item.name] = over(defaults[item.name], section[item.name])
    methods = data["personalizers"] if kind == "personalizer" else {}
    suited = methods.get(name) if isinstance(methods, Mapping) else None
    return (
        defaults | (dict(suited) if isinstance(suited, Mapping) else {}) | section | {"name": name}
    )


def _options_class(kind: str, name: str) -> type:
    return REGISTRIES[kind].get(name).config_class()  # type: ignore[attr-defined]


def _check_methods(methods: Any) -> None:
    """Refuse unknown methods and options under ``personalizers``."""
    if not isinstance(methods, Mapping):
        raise UserError(
            f"personalizers is {shown(methods)}; expected a mapping of methods to their options."
        )
    for name, options in methods.items():
        fill(f"personalizers.{name}", _options_class("personalizer", str(name)), options)


def _defaults(cls: type) -> Layer:
    """The defaults of an option dataclass, the parts in it by name alone."""
    return {item.name: as_yaml(default_of(item)) for item in fields(cls)}
