"""Baseline against DreamMatcher over many concepts of the library, with confidence intervals.

Each concept is learned, drawn with both arms and scored; what is finished is kept, so that an
interrupted comparison goes on with --resume.

examples:
  dreammatcher compare
  dreammatcher compare --concepts taxi_car,bee_lamp --output runs/two
  dreammatcher compare --output runs/two --resume
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config
from framework.errors import UserError, unknown_name

if TYPE_CHECKING:
    from framework.config import Config
    from framework.metrics.loading import Encoders
    from framework.types import Concept

logger = logging.getLogger(__name__)

CONFIG = "compare"
ALL = "all"
RESULT = "result.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--concepts", metavar="all|a,b", default=ALL, help="names in the library (default all)"
    )
    parser.add_argument("--output", metavar="DIR", help="run folder (default runs/compare)")
    parser.add_argument("--resume", action="store_true", help="keep concepts that are finished")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Compare, write, print."""
    from framework.config import load_config

    config = load_config([CONFIG, *(args.config or [])], args.overrides)
    config = replace(config, output=args.output or config.output)
    from framework.compare import check_prompts, rehearse
    from framework.concepts import load_concept
    from framework.loading import load_pipeline
    from framework.metrics.loading import load_encoders
    from framework.runs import open_run

    names = chosen_names(args.concepts, config)
    if config.concept.weights is not None or config.concept.path is not None:
        raise UserError(
            "compare learns every concept of a library itself; leave out concept.weights and "
            "concept.path, and give concept.library if it is your own."
        )
    configs = {name: replace(config, concept=replace(config.concept, name=name)) for name in names}
    concepts = {name: load_concept(each) for name, each in configs.items()}
    folder = Path(config.output or "runs/compare").expanduser()
    logger.info("Loading the models ...")
    pipe = load_pipeline(config.model)
    for concept in concepts.values():
        check_prompts(pipe, concept, config)
    rehearse(pipe, next(iter(concepts.values())), config)
    encoders = load_encoders(config.evaluation, pipe.device)
    open_run(folder, config)
    _check_fresh(folder, args.resume)
    for name in ("results.json", "table.md"):
        (folder / name).unlink(missing_ok=True)
    reports = {}
    for place, (name, concept) in enumerate(concepts.items(), start=1):
        target = folder / "concepts" / name
        report = finished(target, concept, configs[name])
        if report is None:
            logger.info("%d/%d  %s", place, len(concepts), name)
            report = one_concept(pipe, concept, configs[name], encoders, target)
        else:
            logger.info("%d/%d  %s is finished and kept", place, len(concepts), name)
        reports[name] = report
    _report(reports, folder)
    return 0


def chosen_names(text: str, config: Config) -> list[str]:
    """The concepts of ``--concepts``, each once, in the order given.

    Raises:
        UserError: a name is not in the library, or the library is empty.
    """
    from framework.concepts import list_concepts

    known = list_concepts(config.concept.library)
    if not known:
        raise UserError(
            f"The library '{config.concept.library}' has no concept; expected one folder of "
            "pictures for each. Give another with concept.library=FOLDER."
        )
    if text == ALL:
        return known
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not names:
        raise UserError(f"--concepts is '{text}'; expected 'all' or names joined by commas.")
    for name in names:
        if name not in known:
            raise unknown_name("concept", name, known)
    return names


def one_concept(
    pipe: Any, concept: Concept, config: Config, encoders: Encoders, folder: Path
) -> dict[str, Any]:
    """Learn, draw and score one concept; ``result.json`` is written last."""
    from framework.cli.results import write_grid, write_images, write_json
    from framework.compare import BASELINE, TREATED, compare_arms
    from framework.metrics.judge import Judge
    from framework.metrics.scale import other_concepts
    from framework.metrics.summary import summarise
    from framework.personalize import fingerprint, learn

    judge = Judge(encoders, concept, config.evaluation.text)
    learned = learn(pipe, concept, config, folder / "personalizer")
    restore = config.part("personalizer").load(pipe, learned.path, concept)
    try:
        comparison = compare_arms(pipe, concept, config, judge=judge)
    finally:
        restore()
    scales = judge.scales(other_concepts(config.concept.library, concept))
    scores = {name: arm.scores for name, arm in comparison.arms.items()}
    report = summarise(scores, scales, BASELINE, TREATED)
    write_images(comparison, folder)
    write_grid(comparison, report, folder)
    report |= {
        "cells": [
            {"file": cell.file, "prompt": cell.prompt, "seed": cell.seed}
            for cell in comparison.cells
        ],
        "seconds": {
            "training": learned.seconds,
            **{f"sampling_{name}": arm.seconds for name, arm in comparison.arms.items()},
        },
        "identity": fingerprint(concept, config),
    }
    write_json(folder / RESULT, report)
    return report


def finished(folder: Path, concept: Concept, config: Config) -> dict[str, Any] | None:
    """A concept's report if it is there, whole, and made from the same pictures."""
    from framework.personalize import fingerprint

    try:
        report = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(report, dict) and report.get("identity") == fingerprint(concept, config)
    return report if same else None


def _check_fresh(folder: Path, resume: bool) -> None:
    done = sorted(path.parent.name for path in folder.glob(f"concepts/*/{RESULT}"))
    if done and not resume:
        raise UserError(
            f"The output folder '{folder}' already has {len(done)} finished concept(s) "
            f"({', '.join(done[:3])}{', ...' if len(done) > 3 else ''}). Add --resume to keep them "
            "and go on, or give another --output."
        )


def _report(reports: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    from framework.atomic import write_atomic
    from framework.cli.results import versions, write_json
    from framework.compare import BASELINE, LABELS, TREATED
    from framework.metrics.tables import markdown
    from framework.metrics.verdict import pool, sentences, verdict

    pooled = pool(reports, BASELINE, TREATED)
    said = sentences(pooled, BASELINE, TREATED)
    table = markdown(reports, pooled, LABELS)
    write_atomic(folder / "table.md", (table + "\n" + "\n".join(said) + "\n").encode())
    write_json(
        folder / "results.json",
        {
            "concepts": reports,
            "mean": {
                key: {name: estimate.to_dict() for name, estimate in values.items()}
                for key, values in pooled.items()
            },
            "verdict": verdict(pooled, BASELINE),
            "versions": versions(),
        },
    )
    console = Console(highlight=False)
    console.print(Markdown(table))
    for sentence in said:
        console.print(sentence, soft_wrap=True)
    for name in ("table.md", "results.json", "concepts/"):
        console.print(f"  {folder / name}", soft_wrap=True)
