"""Measure the toy world's exported models on held-out renders and concepts."""

from __future__ import annotations

import argparse
from pathlib import Path

from framework.cli.world import pretrain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from framework.toyworld.pretrain.cli import WEIGHTS

    parser.add_argument("--data", type=Path, default=Path("data/world"), help="rendered sets")
    parser.add_argument("--work", type=Path, default=Path("runs/world"), help="where to write")
    parser.add_argument("--target", type=Path, default=WEIGHTS, help="the models' folder")
    parser.add_argument("options", nargs="*", metavar="key=value", help="e.g. threads=2")
    parser.set_defaults(stage="evaluate", minutes=None)


def run(args: argparse.Namespace) -> int:
    """Measure."""
    return pretrain.run(args)
