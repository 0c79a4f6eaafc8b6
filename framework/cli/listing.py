"""List every registered part: its summary; its options, each with type, meaning, default.

examples:
  dreammatcher list
  dreammatcher list matcher --plugin my_matcher
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from framework.errors import shown, unknown_name
from framework.options import default_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("kind", nargs="?", help="only this kind, e.g. matcher")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="import this module first"
    )


def collect(kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every part of every kind (or of one), with summary, origin and options.

    Raises:
        UserError: there is no such kind.
    """
    from framework.registry import REGISTRIES

    if kind is not None and kind not in REGISTRIES:
        raise unknown_name("kind of part", kind, REGISTRIES)
    kinds = [kind] if kind else list(REGISTRIES)
    return {
        each: [
            {
                "name": name,
                "summary": cls.summary(),  # type: ignore[attr-defined]
                "class": f"{cls.__module__}:{cls.__qualname__}",
                "options": [
                    dict(zip(("name", "type", "default", "help"), row, strict=True))
                    for row in describe_options(cls.config_class())  # type: ignore[attr-defined]
                ],
            }
            for name, cls in REGISTRIES[each].items()
        ]
        for each in kinds
    }


def describe_options(config: type) -> list[tuple[str, str, str, str]]:
    """Rows (name, type, default, help) of an option dataclass, such as a part's."""
    rows = []
    for item in fields(config):
        about: Mapping[str, Any] = {"low": None, "high": None, **item.metadata}
        kind = item.type if isinstance(item.type, str) else inspect.formatannotation(item.type)
        if about.get("part"):
            kind = f"{about['part']}s" if about["several"] else about["part"]
        low, high = about["low"], about["high"]
        notes = []
        if low is not None and high is not None:
            notes = [f"({low:g} to {high:g})"]
        elif low is not None or high is not None:
            notes = [f"(at least {low:g})" if low is not None else f"(at most {high:g})"]
        if about.get("choices"):
            notes.append(f"(one of {', '.join(map(str, about['choices']))})")
        text = " ".join(filter(None, [about.get("help", ""), *notes]))
        rows.append((item.name, str(kind), shown(default_of(item)), text))
    return rows


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from framework.registry import import_plugin

    for module in args.plugin:
        import_plugin(module)
    found = collect(args.kind)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    _print(found)
    return 0


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.text import Text

    from framework.registry import REGISTRIES

    console = Console(highlight=False)
    with console.capture() as captured:
        for kind, parts in found.items():
            console.print(Text.assemble((kind, "bold underline"), f"  {REGISTRIES[kind].role}"))
            for part in parts:
                console.print(*_entry(part))
            console.print()
    for line in captured.get().splitlines():
        print(line.rstrip())


def _entry(part: dict[str, Any]) -> list[Any]:
    """One part: its name, its summary, a table of its options."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown: list[Any] = [
        Padding(Text(part["name"], "bold cyan"), (0, 0, 0, 2)),
        Padding(Text(part["summary"]), (0, 0, 0, 4)),
    ]
    if part["options"]:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="green")
        table.add_column(style="dim", overflow="fold", max_width=16)
        table.add_column(overflow="fold")
        for row in part["options"]:
            default = (f" default {row['default']}", "dim")
            table.add_row(row["name"], Text(row["type"]), Text.assemble(row["help"], default))
        shown.append(Padding(table, (0, 0, 0, 6)))
    return shown
