"""Print the configuration a command with these arguments would use, checked and complete.

examples:
  dreammatcher config --config presets/official
  dreammatcher config --config models/sd1 matcher=mutual_nn sampler.num_inference_steps=30
"""

from __future__ import annotations

import argparse

from framework.cli.arguments import add_config, config_of

#: So that the libraries that load models, which are slow to import, stay out of it.
LOADS_MODELS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print(config_of(args).to_yaml(), end="")
    return 0
