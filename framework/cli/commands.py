"""The commands of ``dreammatcher``, in groups, and the help that lists them."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping

Commands = Mapping[str, tuple[str, str]]

PROGRAM = "dreammatcher"
ABOUT = "Text-to-image personalization by semantic matching."
#: Command -> module with ``add_arguments(parser)`` and ``run(args)`` (or with ``COMMANDS`` of
#: its own), and its one line of help.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("framework.cli.demo", "the whole method on a bundled concept: train, draw, compare"),
    "train": ("framework.cli.train", "teach a model a concept from its pictures"),
    "sample": ("framework.cli.sample", "draw prompts with a configuration"),
    "inspect": ("framework.cli.inspect", "what the method saw, a page for each chosen step"),
    "compare": ("framework.cli.compare", "baseline against DreamMatcher over many concepts"),
    "ablate": ("framework.cli.ablate", "draw, score and tabulate the variants of a plan"),
    "submit": ("framework.cli.submit", "draw a plan as SLURM jobs"),
    "evaluate": ("framework.cli.evaluate", "score an ablation, or any folder of images"),
    "match-bench": ("framework.cli.match_bench", "PCK of extractors and matchers, known truth"),
    "transfer-bench": ("framework.cli.transfer_bench", "appearance brought over, true pictures"),
    "train-matcher": ("framework.cli.train_matcher", "train the head of the learned matcher"),
    "bench": ("framework.cli.bench", "what an image costs: FLOPs, memory, time"),
    "check": ("framework.cli.check", "whether a part keeps the contract of its kind"),
    "list": ("framework.cli.listing", "every registered part with its options"),
    "config": ("framework.cli.config", "print the resolved configuration"),
    "completion": ("framework.cli.completion", "print a script that completes words in a shell"),
    "world": ("framework.cli.world", "the embedded world: preview, render, pretrain, evaluate"),
}
#: Title -> (its commands, one line that can be typed as it is).
GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "personalize": (
        ("demo", "train", "sample", "inspect"),
        "train concept.name=clown_cat",
    ),
    "experiments": (
        ("compare", "ablate", "submit", "evaluate"),
        "ablate components --dry-run",
    ),
    "matching and cost": (
        ("match-bench", "transfer-bench", "train-matcher", "bench"),
        "match-bench --matcher cycle_argmax,mutual_nn",
    ),
    "look things up": (
        ("list", "check", "config", "completion", "world"),
        "list matcher",
    ),
}
_OPTIONS = {
    "--help": "what the command takes, with examples; also: help COMMAND",
    "--quiet": "no progress bars, warnings only",
    "--debug": "tracebacks and all messages",
    "--version": "print the version",
}
_NARROWEST, _WIDEST = 40, 100


def usage(prog: str, about: str, commands: Commands) -> str:
    """Help text of a program with commands, no line longer than the terminal is wide."""
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    groups: dict[str, tuple[tuple[str, ...], str]] = {"commands": (tuple(commands), "")}
    if commands is COMMANDS:
        grouped = {name for names, _ in GROUPS.values() for name in names}
        rest = tuple(name for name in commands if name not in grouped)
        groups = GROUPS | ({"more": (rest, "")} if rest else {})
    lines = [f"usage: {prog} COMMAND [options] [key=value ...]", "", textwrap.fill(about, width)]
    for title, (names, example) in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            lines += _row(name, commands[name][1], max(map(len, commands)) + 2, width)
        if example:
            lines.append(f"    e.g. {prog} {example}")
    lines += ["", "options of every command:"]
    for name, text in _OPTIONS.items():
        lines += _row(name, text, 11, width)
    return "\n".join(lines) + "\n"


def _row(name: str, text: str, column: int, width: int) -> list[str]:
    """A name and its text in two columns; in a narrow terminal below each other."""
    if width < 60:
        return [f"  {name}", *_wrapped(text, 6, width)]
    first, *more = _wrapped(text, 2 + column, width)
    return [f"  {name:<{column}}{first.strip()}", *more]


def _wrapped(text: str, indent: int, width: int) -> list[str]:
    room = max(width - indent, 20)
    return [" " * indent + line for line in textwrap.wrap(text, room, break_on_hyphens=False)]
