"""Teach a model a concept from its pictures, and write what was learned into a run folder.

The same command again goes on from the last checkpoint, or finds the training finished.

examples:
  dreammatcher train concept.name=clown_cat
  dreammatcher train concept.path=PHOTOS concept.class_name=cat personalizer.steps=400
  dreammatcher train --config models/sd1 model.path=FOLDER concept.path=PHOTOS \\
      concept.class_name=dog personalizer.steps=3000
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.cli.arguments import add_config, config_of
from framework.errors import UserError

if TYPE_CHECKING:
    from framework.types import Concept

#: Sections of the configuration that sampling needs as they were in training.
SHARED = ("model.", "concept.", "personalizer", "plugins")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output", metavar="DIR", help="run folder (default runs/train/CONCEPT-PERSONALIZER)"
    )
    add_config(parser)


def run(args: argparse.Namespace) -> None:
    """Train.

    Raises:
        UserError: something in the configuration, the pictures or the output folder cannot be used.
    """
    from framework.backbones.loading import load_pipeline
    from framework.concepts.folders import load_concept
    from framework.config.folder import open_run

    config = config_of(args)
    config = replace(config, output=args.output or config.output)
    if config.concept.weights is not None:
        raise UserError(
            f"concept.weights is '{config.concept.weights}', which is for using learned weights; "
            "this command learns them. Leave it out."
        )
    concept = load_concept(config)
    kind = config.personalizer["name"]
    default = Path("runs", "train", f"{concept.name}-{kind.replace(':', '.')}")
    personalizer = config.part("personalizer")
    pipe = load_pipeline(config.model)
    personalizer.check(pipe, concept)
    folder = open_run(config, default)
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of those that train together; it tells
    if first:
        print(
            f"Learning {concept.placeholder} ({concept.class_name}) from {len(concept.images)} "
            f"picture(s) with {kind}."
        )
    started = time.monotonic()
    weights = personalizer.train(pipe, concept, folder, seed=config.seed)
    if not first:
        return
    print(f"Done in {time.monotonic() - started:.0f} s. Weights: {weights}")
    print(f"Use them:\n  {usage(args, concept, weights)}")


def usage(args: argparse.Namespace, concept: Concept, weights: Path) -> str:
    """The command that draws with the weights, the same model and concept."""
    files = args.config or []
    words = ["dreammatcher", "sample"]
    for file in [files] if isinstance(files, str) else files:
        words += ["--config", str(file)]
    words += [text for text in args.overrides if text.startswith(SHARED)]
    words += [f"concept.weights={weights}", "--prompt", "a photo of a {}"]
    return shlex.join(words)
