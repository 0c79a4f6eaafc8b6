"""The whole method on one concept: learn it, draw it with and without DreamMatcher, compare.

Without arguments it takes a bundled concept and the bundled models. The same command again keeps
what is learned and drawn; another configuration goes to a folder of its own.

examples:
  dreammatcher demo
  dreammatcher demo --concept taxi_car --output runs/taxi
  dreammatcher demo --images PHOTOS --class-name dog --config models/sd1 model.path=FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config
from framework.errors import UserError

if TYPE_CHECKING:
    from framework.config.page import Config
    from framework.types import Concept

logger = logging.getLogger(__name__)

CONFIG = "demo"
METRICS = "metrics.json"
#: Pictures whose matches are shown: the first seed of so many prompts.
SHOWN_MATCHES = 4


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
    from framework.concepts.folders import load_concept
    from framework.config.folder import config_folder
    from framework.experiments.arms import arms_plan, learned_before
    from framework.experiments.run import run_experiment
    from framework.training.personalize import one_device

    one_device(config)
    concept = load_concept(config)
    if config.concept.path is not None and config.model.path in config.model.notes:
        logger.warning("Note: %s", config.model.notes[config.model.path])
    own = {key: getattr(config.concept, key) for key in ("path", "class_name")}
    plan = arms_plan(
        config,
        {concept.name: {key: value for key, value in own.items() if value is not None}},
        name=f"demo of {concept.name}",
        layout="images/{arm}/{prompt}-{seed}.png",
        run={
            "devices": "auto" if ":" in config.model.device else 1,
            "threads": None,
            "flows": SHOWN_MATCHES,
        },
    )
    place = config_folder(config, Path("runs/demo") / concept.name)
    reused = learned_before(plan, place.path)
    logger.info("Learning '%s' from %d picture(s) ...", concept.phrase, len(concept.images))
    run_experiment(plan, place)
    report = _write(plan, concept, place.path, reused, begun)
    _print(report, concept, place.path)
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


def _write(plan: Any, concept: Concept, folder: Path, reused: bool, begun: float) -> dict[str, Any]:
    """Pictures first, ``metrics.json`` last: a folder that has it is complete."""
    from framework.concepts.text import fill_prompt
    from framework.experiments.arm_pictures import write_grid, write_matches
    from framework.experiments.arms import read_pairs
    from framework.runs.atomic import write_atomic
    from framework.runs.machine import hardware, versions

    (pair,) = read_pairs(plan, folder)
    report = pair.report()
    write_grid(pair, concept, report, folder, folder / "grid.png")
    write_matches(pair, concept, plan.config.sampler.num_inference_steps, folder)
    seconds = report["seconds"] | {
        "training_reused": reused,
        "total": time.perf_counter() - begun,
    }
    report |= {
        "concept": {"name": concept.name, "phrase": concept.phrase},
        "cells": [
            cell | {"file": Path(cell["file"]).name, "prompt": fill_prompt(cell["prompt"], concept)}
            for cell in report["cells"]
        ],
        "seconds": {k: round(v, 2) if isinstance(v, float) else v for k, v in seconds.items()},
        "versions": versions(),
        "hardware": hardware(),
    }
    write_atomic(folder / METRICS, json.dumps(report, indent=2) + "\n")
    return report


def _print(report: dict[str, Any], concept: Concept, folder: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(table_of(report, f"{concept.phrase}: baseline against DreamMatcher"))
    for name, scale in report["scale"].items():
        if scale["reason"]:
            console.print(f"No scale for {name}: {scale['reason']}.", style="dim")
    times = report["seconds"]
    learned = "none" if times["training"] is None else f"{times['training']:.0f} s"
    learned = "reused" if times["training_reused"] else learned
    console.print(
        f"Learning {learned}, baseline {times['sampling_baseline']:.0f} s, DreamMatcher "
        f"{times['sampling_dreammatcher']:.0f} s, in all {times['total']:.0f} s. "
        f"On {report['hardware']}.",
        soft_wrap=True,
    )
    for name, text in (
        ("grid.png", "references, baseline, DreamMatcher"),
        ("matches.png", "what was matched where"),
        ("metrics.json", "all numbers"),
        ("images/", "every picture"),
        ("report.html", "all of it on a page"),
    ):
        console.print(f"  {folder / name}  ({text})", soft_wrap=True)


def table_of(report: dict[str, Any], title: str) -> Any:
    """One concept's similarities of both arms, their difference and the places on the scale."""
    from rich.table import Table

    from framework.experiments.arms import BASELINE, LABELS, TREATED
    from framework.metrics.panel import SIMILARITIES

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("similarity")
    for name in (LABELS[BASELINE], LABELS[TREATED], "difference", "on the scale"):
        table.add_column(name, justify="right")
    for name, words in SIMILARITIES.items():
        scaled = [report[arm]["scaled"].get(name) for arm in (BASELINE, TREATED)]
        table.add_row(
            words,
            f"{report[BASELINE][name]:.3f}",
            f"{report[TREATED][name]:.3f}",
            f"{report['difference'][name]:+.3f}",
            "" if None in scaled else f"{scaled[0]:.2f} → {scaled[1]:.2f}",
        )
    return table
