"""Check that a part keeps the contract of its kind, installed or not.

The part is a registered name, or module:Class with the module's folder on PYTHONPATH or current.
Exit status 0: every promise is kept; 1: one is broken; 2: it cannot be built.

examples:
  dreammatcher check my_matcher:Alike
  dreammatcher check my_matcher:Alike sharpness=2
  dreammatcher check --kind mask none
"""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any

from framework.errors import UserError

if TYPE_CHECKING:
    from framework.contracts.base import Verdict
    from framework.interfaces import Part

#: Steps drawn on the embedded model; parts act from the fifth on by default.
STEPS = 6
CONCEPT = "candy_mug"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("part", help="registered name, or module:Class")
    parser.add_argument("options", nargs="*", metavar="option=value", help="its options")
    parser.add_argument("--kind", help="its kind, where several kinds have the name")
    parser.add_argument(
        "--alone", action="store_true", help="leave out what needs a sampler on the embedded model"
    )


def run(args: argparse.Namespace) -> int:
    """Run the checks and say what came of each."""
    from framework.contracts import checks_of, judge

    kind, part = _built(args.part, args.kind, args.options)
    stage = None if args.alone else _stage(kind)
    print(f"{kind} '{args.part}', {type(part).__module__}:{type(part).__qualname__}")
    verdicts = []
    for check in checks_of(kind, stage):
        verdicts.append(judge(check, part))
        print(_line(verdicts[-1]), flush=True)
    count = Counter(verdict.outcome for verdict in verdicts)
    broken = count["broken"]
    print(f"{count['kept']} kept, {broken} broken, {count['not asked']} not asked.")
    return 1 if broken else 0


def _line(verdict: Verdict) -> str:
    line = f"  {verdict.outcome:<10} {verdict.promise}"
    return f"{line}\n  {'':<10}   -> {verdict.text}" if verdict.text else line


def _built(name: str, kind: str | None, options: list[str]) -> tuple[str, Part]:
    """The kind of a part, and the part.

    Raises:
        UserError: there is none of that name, there are several, or its options are wrong.
    """
    from framework.config.layers import from_override
    from framework.options import fill, options_of
    from framework.registry import REGISTRIES

    kind = kind or _kind_of(name)
    if kind not in REGISTRIES:
        raise UserError(f"--kind is '{kind}'; expected one of {', '.join(REGISTRIES)}.")
    cls: Any = REGISTRIES[kind].get(name)
    given: dict[str, Any] = {}
    for text in options:
        given |= from_override(text)
    return kind, cls(**options_of(fill(kind, cls.config_class(), given)))


def _kind_of(name: str) -> str:
    from framework.registry import REGISTRIES, import_plugin

    if ":" not in name:
        kinds = [kind for kind, registry in REGISTRIES.items() if name in registry.names()]
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            raise UserError(f"'{name}' names a {' and a '.join(kinds)}; choose one with --kind.")
        raise UserError(f"No part is called '{name}'. Give a registered name, or module:Class.")
    module, _, member = name.partition(":")
    cls = getattr(import_plugin(module), member, None)
    for kind, registry in REGISTRIES.items():
        if inspect.isclass(cls) and issubclass(cls, registry.interface):
            return kind
    raise UserError(
        f"'{name}' is no class that derives from one of "
        f"{', '.join(registry.interface.__name__ for registry in REGISTRIES.values())}."
    )


def _stage(kind: str) -> Any:
    """What draws with a part on the embedded model, loaded when it is first needed."""
    from functools import cache

    from framework.backbones.loading import load_pipeline
    from framework.cli.quiet import hush_loading
    from framework.composer import compose
    from framework.config import load_config

    @cache
    def pipe() -> Any:
        hush_loading()
        return load_pipeline(load_config().model)

    def stage(part: Part) -> Any:
        sections = {kind: part.section(), "sampler": {"num_inference_steps": STEPS}}
        return compose({**sections, "concept": {"name": CONCEPT, "placeholder": ""}}, pipe=pipe())

    return stage
