"""Render a training set of the toy world; may be stopped, the same command goes on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="where to, e.g. data/world/train")
    parser.add_argument("--objects", type=int, default=4000, help="number of objects")
    parser.add_argument("--views", type=int, default=4, help="scenes of each object")
    parser.add_argument("--seed", type=int, default=0, help="sets of other seeds are independent")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")


def run(args: argparse.Namespace) -> int:
    """Render."""
    from framework.errors import UserError, check_range

    for name in ("objects", "views", "workers"):
        check_range(f"--{name}", getattr(args, name), 1)
    check_range("--seed", args.seed, 0)

    from framework.toyworld.dataset import render_dataset

    try:
        render_dataset(args.folder, args.objects, args.views, args.seed, args.workers)
    except ValueError as error:  # the folder holds another set
        raise UserError(str(error)) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"'{args.folder}' cannot be a folder: a file is in its place.") from error
    print(args.folder)
    return 0
