"""The keys of a plan's file, read, overridden from the command line and checked one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from framework.config.layers import Layer, find_base, from_override, plain, read_yaml
from framework.config.page import MAX_SEED
from framework.config.resources import config_file
from framework.errors import UserError, shown, unknown_name
from framework.experiments.axes import flat
from framework.experiments.options import RunConfig
from framework.options import fill

ALL = "all"
FOLDER = "ablations"
#: Where a picture's start noise comes from: its seed alone, or its concept, prompt and seed.
NOISES = ("seed", "cell")
#: Where a picture lies in the run folder; the names of the plan's axes may stand there, too.
LAYOUT = "images/{variant}/{concept}/{prompt:03d}-{seed}.png"


@dataclass
class PlanFile:
    """The keys of a plan; :mod:`framework.experiments.plan` tells what they mean."""

    base: list[str] = field(default_factory=list)
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
    noise: str = "seed"
    learn: bool = True
    plugins: list[str] = field(default_factory=list)
    run: RunConfig = field(default_factory=RunConfig)
    protocols: list[str] = field(default_factory=lambda: ["corrected"])
    scaled: bool = False
    layout: str = LAYOUT


def read_plan_file(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> PlanFile:
    """Read a plan's keys.

    Args:
        source: see :func:`framework.experiments.plan.load_plan`.
        overrides: likewise.

    Raises:
        UserError: the file cannot be read, a key is unknown, or its value of another kind.
    """
    if isinstance(source, Mapping):
        raw, folder = plain(dict(source)), Path.cwd()
    else:
        file = plan_file(source)
        raw, folder = read_yaml(file), file.parent
    raw = _overridden(raw, overrides)
    bases = raw.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(name, str) for name in bases):
        raise UserError(f"base is {shown(bases)}; expected a list of file names or shipped names.")
    run = fill("run", RunConfig, raw.pop("run", None) or {})
    found = [str(find_base(name, folder)) for name in bases]
    return PlanFile(**_typed(raw), run=run, base=found)


def plan_file(name: str | Path) -> Path:
    """A plan by path or by its name below ``configs/ablations``."""
    text = str(name)
    if not Path(text).expanduser().is_file() and "/" not in text:
        bare = text.removesuffix(".yaml").removesuffix(".yml")
        return config_file(f"{FOLDER}/{bare}")
    return config_file(name)


def _overridden(raw: Layer, overrides: Sequence[str]) -> Layer:
    known = {item.name for item in fields(PlanFile)}
    merged = dict(raw)
    config = flat(mapping("config", raw.get("config")))
    for text in overrides:
        key = text.partition("=")[0].strip()
        head, _, rest = key.partition(".")
        value: Any = from_override(text)
        for part in key.split("."):
            value = value[part]
        if head == "run" and rest:
            merged["run"] = {**mapping("run", merged.get("run")), rest: value}
        elif key == "concepts" and isinstance(raw.get(key), Mapping):
            merged[key] = _chosen(raw[key], value)
        elif key in known and key != "config":
            merged[key] = value
        else:
            config |= flat({key.removeprefix("config."): value})
    merged["config"] = config
    return merged


def _chosen(there: Mapping[str, Any], said: Any) -> Any:
    """Some of a plan's concepts by name, with what it says of them."""
    names = [word.strip() for word in said.split(",")] if isinstance(said, str) else said
    if said == ALL or not isinstance(names, list):
        return said
    for name in names:
        if name not in there:
            raise unknown_name("concept of the plan", str(name), there)
    return {name: there[name] for name in names}


def _typed(raw: Layer) -> dict[str, Any]:
    known = [item.name for item in fields(PlanFile)]
    for key in raw:
        if key not in known:
            raise unknown_name("key of the plan", str(key), known)
    for key, kinds, words in (
        ("name", str, "text"),
        ("description", str, "text"),
        ("vary", Mapping, "a mapping: axis -> its values"),
        ("protocols", list, "a list of names"),
        ("seeds", list, "a list of integers"),
        ("learn", bool, "true or false"),
        ("scaled", bool, "true or false"),
        ("layout", str, "text"),
        ("plugins", list, "a list of module names"),
        ("noise", str, f"one of {', '.join(NOISES)}"),
    ):
        if raw.get(key) is None:
            raw.pop(key, None)
        elif not isinstance(raw[key], kinds):
            raise UserError(f"{key} is {shown(raw[key])}; expected {words}.")
    raw["config"] = mapping("config", raw.get("config"))
    if raw.get("noise", NOISES[0]) not in NOISES:
        raise UserError(f"noise is {shown(raw['noise'])}; expected one of {', '.join(NOISES)}.")
    check_seeds(raw.get("seeds", [0]))
    return raw


def check_seeds(seeds: Sequence[Any]) -> None:
    """Refuse seeds that torch's generators do not take, or that are given twice."""
    if not seeds:
        raise UserError("The plan is empty: seeds has no entry; give at least one, e.g. [0].")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
            raise UserError(f"seeds has {shown(seed)}; expected integers from 0 to {MAX_SEED}.")
    for seed, times in Counter(seeds).items():
        if times > 1:
            raise UserError(f"seeds has {seed} twice; give each once.")


def mapping(key: str, value: Any) -> dict[str, Any]:
    """A mapping, or nothing; anything else is refused by its key."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{key} is {shown(value)}; expected a mapping.")
    return dict(value or {})
