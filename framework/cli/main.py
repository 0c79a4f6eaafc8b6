"""Entry point of ``dreammatcher``: finds the command, runs it, words what went wrong."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from framework import __version__
from framework.cli.arguments import Parser, add_common
from framework.cli.commands import ABOUT, COMMANDS, PROGRAM, Commands, usage
from framework.cli.failures import worded
from framework.cli.quiet import hush_loading, quieted
from framework.cli.streams import discard_output, printable
from framework.errors import UserError, nearest
from framework.runs.interrupts import Terminations, terminations

FLAGS = ("--debug", "--quiet")
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
_KEPT = "what was finished is kept, and the same command goes on from there."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after ``dreammatcher``; None takes them from the process.

    Returns:
        The exit status: 0; 1 after a fault of the program's own or of the machine's; 2 for input
        that cannot be used; 130 after an interruption, 143 after a request to terminate.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    with printable(), terminations() as asked:
        return _guarded(words, debug, asked)


def _guarded(words: list[str], debug: bool, asked: Terminations) -> int:
    """The exit status of a command, whatever it raises; one sentence says what went wrong."""
    try:
        with quieted("--quiet" in words, debug):
            status = _dispatch(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output wants no more
        discard_output()
        return 0
    except KeyboardInterrupt:
        if asked.received:
            return _fail(f"terminated; {_KEPT}", TERMINATED, debug)
        return _fail(f"interrupted; {_KEPT}", INTERRUPTED, debug)
    except SystemExit as stop:  # a plug-in that leaves on its own
        if isinstance(stop.code, str):
            return _fail(stop.code, 1, debug)
        return int(stop.code or 0)
    except Exception as error:
        message, status = worded(error)
        return _fail(message, status, debug)


def _dispatch(words: list[str]) -> int:
    _check_words(words)
    flags = [word for word in words if word in FLAGS]
    rest = [word for word in words if word not in FLAGS]
    if rest and rest[0] in ("-V", "--version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    commands: Commands
    prog, about, commands = PROGRAM, ABOUT, COMMANDS
    while True:
        if not rest:
            print(usage(prog, about, commands), file=sys.stderr)
            raise UserError(f"{prog} needs a command: {', '.join(commands)}.")
        name, *rest = rest
        if name == "help" and rest:  # help sample: sample --help
            (name, *rest), rest_flag = rest, "--help"
            rest = [*rest, rest_flag]
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


def _check_words(words: Sequence[str]) -> None:
    """Refuse what no file or message could hold."""
    for word in words:
        if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(
                f"The argument {word!r} is not valid UTF-8 text. Type it anew, or rename the file."
            )


def _run(module: ModuleType, parser: Parser, flags: list[str], words: list[str]) -> int:
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        raise UserError("The current folder is gone; change to another one.") from error
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
        loads = getattr(module, "LOADS_MODELS", hasattr(args, "overrides"))
        if loads and not args.debug:
            hush_loading()
        return int(module.run(args) or 0)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
    try:
        print(f"{PROGRAM}: error: {_one_line(message)}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return status


def _one_line(message: str) -> str:
    """The message with what would break its line, or steer the terminal, spelled out."""
    return "".join(c if c.isprintable() or c > "\x9f" else repr(c)[1:-1] for c in message)


if __name__ == "__main__":
    sys.exit(main())
