"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from framework.errors import UserError, nearest

if TYPE_CHECKING:
    from framework.config.page import Config


_NARROWEST = 30


class HelpText(argparse.HelpFormatter):
    """Paragraphs filled to the terminal's width; what is indented, the examples, as it stands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks: list[str] = []
        for paragraph in text.split("\n\n"):
            if any(line.startswith(" ") for line in paragraph.splitlines()):
                blocks.append(paragraph)
            else:
                blocks.append(textwrap.fill(" ".join(paragraph.split()), max(width, _NARROWEST)))
        return "\n\n".join(blocks)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, with the nearest known option."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", HelpText)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise UserError(f"{message}. See '{self.prog} --help'.")

    def parse_all(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse options and ``key=value`` words in any order; refuse what is unknown."""
        args, unknown = self.parse_known_intermixed_args(list(argv))
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            raise UserError(
                f"Unknown argument '{unknown[0]}'.{nearest(unknown[0].partition('=')[0], known)} "
                f"See '{self.prog} --help'."
            )
        return args


def add_common(parser: argparse.ArgumentParser) -> None:
    """``--quiet`` and ``--debug``, which every command has."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars, warnings only")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and all messages")


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config`` and trailing ``key=value`` overrides."""
    parser.add_argument(
        "--config",
        metavar="FILE|NAME",
        action="append",
        help="YAML file, or a shipped configuration such as models/sd1; may be repeated, "
        "later ones win (default: the embedded world)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. sampler.num_inference_steps=30"
    )


def config_of(args: argparse.Namespace, extra: Sequence[str] = ()) -> Config:
    """The configuration a command was given.

    Args:
        args: parsed with :func:`add_config`'s arguments.
        extra: overrides applied after the user's.
    """
    from framework.config.page import load_config

    return load_config(args.config or None, [*args.overrides, *extra])
