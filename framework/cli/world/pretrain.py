"""Train one of the toy world's models, or export them; the same command goes on where it stopped.

Options of a stage are key=value, e.g. minutes=30 batch_size=64.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from framework.toyworld.pretrain import cli

    cli.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    from omegaconf.errors import OmegaConfBaseException

    from framework.errors import UserError, first_line
    from framework.toyworld.pretrain import cli

    try:
        cli.run(args)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    except OmegaConfBaseException as error:
        raise UserError(f"Stage '{args.stage}': {first_line(error)}.") from error
    return 0
