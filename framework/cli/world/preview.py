"""Write a labelled contact sheet of the toy world: objects, places, concepts, correspondence."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output", type=Path, default=Path("runs/world/preview.png"), metavar="PNG"
    )
    parser.add_argument("--seed", type=int, default=0, help="which objects and scenes are drawn")


def run(args: argparse.Namespace) -> int:
    """Draw the sheet."""
    from framework.errors import UserError, check_range
    from framework.runs.atomic import write_atomic

    check_range("--seed", args.seed, 0)
    if args.output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--output is '{args.output}'; expected a file name that ends in .png.")

    from framework.toyworld.preview import contact_sheet

    write_atomic(args.output, lambda path: contact_sheet(path, args.seed))
    print(args.output)
    return 0
