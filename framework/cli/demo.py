"""The whole method on one concept: learn it, draw it with and without DreamMatcher, compare.

Without arguments it takes a bundled concept and the bundled models. Weights that an identical run
has learned into the same folder are used again.

examples:
  dreammatcher demo
  dreammatcher demo --concept taxi_car --output runs/taxi
  dreammatcher demo --images PHOTOS --class-name dog --config models/sd1 model.path=FOLDER
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config
from framework.errors import UserError

if TYPE_CHECKING:
    from framework.config.page import Config
    from framework.experiments.compare import Comparison
    from framework.metrics.scale import Scale
    from framework.types import Concept

logger = logging.getLogger(__name__)

CONFIG = "demo"
METRICS = "metrics.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--concept", metavar="NAME", help="a concept of the library")
    which.add_argument("--images", metavar="DIR", help="a folder of pictures of your own object")
    parser.add_argument("--class-name", metavar="NOUN", help="what it is, e.g. dog")
    parser.add_argument("--output", metavar="DIR", help="run folder (default runs/demo/CONCEPT)")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Learn, draw, score, write, print."""
    begun = time.perf_counter()
    config = demo_config(args)
    from framework.backbones.loading import load_pipeline
    from framework.concepts.folders import load_concept
    from framework.experiments.compare import check_prompts, compare_arms, rehearse
    from framework.metrics.judge import Judge
    from framework.metrics.loading import load_encoders
    from framework.metrics.scale import other_concepts
    from framework.runs.folder import open_run
    from framework.training.personalize import learn, one_device, plug_in

    one_device(config)
    concept = load_concept(config)
    if config.concept.path is not None and config.model.path in config.model.notes:
        logger.warning("Note: %s", config.model.notes[config.model.path])
    logger.info("Loading the models ...")
    pipe = load_pipeline(config.model)
    check_prompts(pipe, concept, config)
    rehearse(pipe, concept, config)
    judge = Judge(load_encoders(config.evaluation, pipe.device), concept, config.evaluation.text)
    folder = open_run(_folder(config, concept), config)
    (folder / METRICS).unlink(missing_ok=True)

    logger.info("Learning '%s' from %d picture(s) ...", concept.phrase, len(concept.images))
    learned = learn(pipe, concept, config, folder / "personalizer")
    if learned.reused:
        logger.info("Its weights are there already and are used again.")
    restore = plug_in(pipe, learned.path, concept, config)
    try:
        logger.info("Drawing %d picture(s) with either arm ...", _count(config))
        from framework.cli.results import traced_cells

        comparison = compare_arms(pipe, concept, config, judge=judge, traced=traced_cells(config))
    finally:
        restore()
    scales = judge.scales(other_concepts(config.concept.library, concept))
    seconds = {"training": learned.seconds, "training_reused": learned.reused}
    seconds |= {f"sampling_{name}": arm.seconds for name, arm in comparison.arms.items()}
    report = _write(comparison, scales, config, folder, seconds, begun)
    _print(report, concept, folder)
    return 0


def demo_config(args: argparse.Namespace) -> Config:
    """The configuration of the arguments.

    Raises:
        UserError: --class-name without --images, or whatever the configuration has wrong.
    """
    from framework.config.page import load_config

    chosen: dict[str, Any] = {}
    if args.images is not None:
        chosen = {"path": args.images, "name": None, "class_name": args.class_name}
    elif args.class_name is not None:
        raise UserError("--class-name belongs to --images DIR; a bundled concept has its own noun.")
    elif args.concept is not None:
        chosen = {"name": args.concept, "path": None}
    sources: list[Any] = [CONFIG, *(args.config or []), {"concept": chosen}]
    config = load_config(sources, args.overrides)
    return replace(config, output=args.output or config.output)


def _folder(config: Config, concept: Concept) -> Path:
    return Path(config.output or Path("runs/demo") / concept.name).expanduser()


def _count(config: Config) -> int:
    return len(config.prompts) * len(config.seeds)


def _write(
    comparison: Comparison,
    scales: dict[str, Scale],
    config: Config,
    folder: Path,
    seconds: dict[str, Any],
    begun: float,
) -> dict[str, Any]:
    """Pictures first, ``metrics.json`` last: a folder that has it is complete."""
    from framework.cli.results import (
        versions,
        write_grid,
        write_images,
        write_json,
        write_matches,
    )
    from framework.concepts.text import fill
    from framework.experiments.compare import BASELINE, TREATED
    from framework.metrics.summary import summarise

    concept = comparison.concept
    scores = {name: arm.scores for name, arm in comparison.arms.items()}
    report = summarise(scores, scales, BASELINE, TREATED)
    write_images(comparison, folder)
    write_grid(comparison, report, folder)
    write_matches(comparison, config, folder)
    seconds["total"] = time.perf_counter() - begun
    report |= {
        "concept": {"name": concept.name, "phrase": concept.phrase},
        "cells": [
            {"file": cell.file, "prompt": fill(cell.prompt, concept), "seed": cell.seed}
            for cell in comparison.cells
        ],
        "seconds": {
            key: round(value, 2) if isinstance(value, float) else value
            for key, value in seconds.items()
        },
        "versions": versions(),
    }
    write_json(folder / METRICS, report)
    return report


def _print(report: dict[str, Any], concept: Concept, folder: Path) -> None:
    from rich.console import Console

    from framework.cli.results import table_of

    console = Console(highlight=False)
    console.print(table_of(report, f"{concept.phrase}: baseline against DreamMatcher"))
    for name, scale in report["scale"].items():
        if scale["reason"]:
            console.print(f"No scale for {name}: {scale['reason']}.", style="dim")
    times = report["seconds"]
    learned = "reused" if times["training_reused"] else f"{times['training']:.0f} s"
    console.print(
        f"Learning {learned}, baseline {times['sampling_baseline']:.0f} s, DreamMatcher "
        f"{times['sampling_dreammatcher']:.0f} s, in all {times['total']:.0f} s."
    )
    for name, text in (
        ("grid.png", "references, baseline, DreamMatcher"),
        ("matches.png", "what was matched where"),
        ("metrics.json", "all numbers"),
        ("images/", "every picture"),
    ):
        console.print(f"  {folder / name}  ({text})", soft_wrap=True)
