"""Entry point of ``dreammatcher``: finds the command, runs it, words what went wrong."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from framework import __version__
from framework.cli.arguments import Parser, add_common
from framework.cli.quiet import hush_loading, quieted
from framework.errors import UserError, nearest

Commands = dict[str, tuple[str, str]]

ABOUT = "Text-to-image personalization by semantic matching. --version prints the version."
FLAGS = ("--debug", "--quiet")
#: Command -> module with ``add_arguments(parser)`` and ``run(args)`` (or with ``COMMANDS`` of
#: its own), and its one line of help.
COMMANDS: Commands = {
    "demo": ("framework.cli.demo", "the whole method on a bundled concept: train, draw, compare"),
    "train": ("framework.cli.train", "teach a model a concept from its pictures"),
    "train-matcher": ("framework.cli.train_matcher", "train the head of the learned matcher"),
    "sample": ("framework.cli.sample", "draw prompts with a configuration"),
    "compare": ("framework.cli.compare", "baseline against DreamMatcher over many concepts"),
    "match-bench": ("framework.cli.match_bench", "PCK of extractors and matchers, known truth"),
    "ablate": ("framework.cli.ablate", "draw, score and tabulate the variants of a plan"),
    "evaluate": ("framework.cli.evaluate", "score an ablation, or any folder of images"),
    "submit": ("framework.cli.submit", "draw a plan as SLURM jobs"),
    "inspect": ("framework.cli.inspect", "what the method saw, a page for each chosen step"),
    "bench": ("framework.cli.bench", "what an image costs: FLOPs, memory, time"),
    "list": ("framework.cli.listing", "every registered part with its options"),
    "config": ("framework.cli.config", "print the resolved configuration"),
    "world": ("framework.cli.world", "the embedded world: preview, render, pretrain, evaluate"),
}
INTERRUPTED = 130
BAD_INPUT = 2


def usage(prog: str, about: str, commands: Commands) -> str:
    """Help text of a program with commands."""
    width = max(map(len, commands)) + 2
    lines = "\n".join(f"  {name:<{width}}{text}" for name, (_, text) in commands.items())
    return (
        f"usage: {prog} COMMAND [options] [key=value ...]\n\n{about}\n\ncommands:\n{lines}\n\n"
        "options of every command:\n"
        "  --help    what the command takes\n"
        "  --quiet   no progress bars, warnings only\n"
        "  --debug   tracebacks and all messages\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after ``dreammatcher``; None takes them from the process.

    Returns:
        The exit status: 0, 2 for input that cannot be used, 130 after an interruption.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with quieted("--quiet" in words, debug):
            return _dispatch(words)
    except UserError as error:
        return _fail(str(error), BAD_INPUT, debug)
    except KeyboardInterrupt:
        message = "interrupted; what was finished is kept, and the same command goes on from there."
        return _fail(message, INTERRUPTED, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" ('{error.filename}')" if error.filename else ""
        return _fail(f"{_DISK[error.errno]}{where}", BAD_INPUT, debug)


_DISK = {
    errno.ENOSPC: "the disk is full; what was finished is kept. Free some space and run it again.",
    errno.EDQUOT: "the disk quota is used up; what was finished is kept.",
    errno.EROFS: "the output lies on a read-only disk; choose another --output.",
    errno.EACCES: "no permission to read or write a file; check it, or choose another --output.",
}


def _dispatch(words: list[str]) -> int:
    flags = [word for word in words if word in FLAGS]
    rest = [word for word in words if word not in FLAGS]
    if rest and rest[0] in ("-V", "--version"):
        print(f"dreammatcher {__version__}")
        return 0
    prog, about, commands = "dreammatcher", ABOUT, COMMANDS
    while True:
        if not rest:
            print(usage(prog, about, commands), file=sys.stderr)
            raise UserError(f"{prog} needs a command: {', '.join(commands)}.")
        name, *rest = rest
        if name in ("-h", "--help", "help"):
            print(usage(prog, about, commands), end="")
            return 0
        if name not in commands:
            raise UserError(
                f"Unknown command '{prog} {name}'.{nearest(name, commands)} "
                f"Commands: {', '.join(commands)}."
            )
        module = importlib.import_module(commands[name][0])
        prog, about = f"{prog} {name}", (module.__doc__ or "").strip()
        if not hasattr(module, "COMMANDS"):
            return _run(module, Parser(prog=prog, description=about), flags, rest)
        commands = module.COMMANDS


def _run(module: ModuleType, parser: Parser, flags: list[str], words: list[str]) -> int:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # so that a plug-in module in the current folder is found
    add_common(parser)
    module.add_arguments(parser)
    try:
        args = parser.parse_all([*flags, *words])
    except SystemExit as stop:  # argparse leaves this way after --help
        return int(stop.code or 0)
    with ExitStack() as stack:
        if args.quiet:
            from framework.runs.progress import no_progress

            stack.enter_context(no_progress())
        if hasattr(args, "overrides") and not args.debug:  # a command that reads a configuration
            hush_loading()
        return int(module.run(args) or 0)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"dreammatcher: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
