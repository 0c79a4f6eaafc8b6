"""Baseline against DreamMatcher over many concepts of the library, with confidence intervals.

First every concept is learned and drawn with both arms, then everything is scored. What is
finished is kept, so that an interrupted comparison goes on with --resume; with another judge
(evaluation.clip, evaluation.identity) the kept pictures are scored again.

examples:
  dreammatcher compare
  dreammatcher compare --concepts taxi_car,bee_lamp --output runs/two
  dreammatcher compare --output runs/two --resume
  dreammatcher compare --personalizers all --output runs/methods
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config
from framework.errors import UserError, unknown_name

if TYPE_CHECKING:
    from framework.config.page import Config
    from framework.experiments.arms import Pair
    from framework.experiments.plan import Plan

CONFIG = "compare"
ALL = "all"
#: Where a method's pictures go, if there are several.
METHOD = "{method}/"
METHODS = ("textual_inversion", "dreambooth", "dreambooth_lora", "custom_diffusion")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--concepts", metavar="all|a,b", default=ALL, help="names in the library (default all)"
    )
    parser.add_argument(
        "--personalizers",
        metavar="all|a,b",
        help="several methods, each learning every concept with its own settings "
        f"(all: {', '.join(METHODS)}); default: the configured one",
    )
    parser.add_argument("--output", metavar="DIR", help="run folder (default runs/compare)")
    parser.add_argument("--resume", action="store_true", help="keep what is finished")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Learn and draw everything, score everything, write, print."""
    from framework.config.page import load_config

    words = [text for text in args.overrides if not text.startswith("run.")]
    config = load_config([CONFIG, *(args.config or [])], words)
    config = replace(config, output=args.output or config.output)
    from framework.config.folder import config_folder
    from framework.experiments.arms import arms_plan
    from framework.experiments.ranks import first_rank
    from framework.experiments.run import run_experiment
    from framework.training.personalize import one_device

    names = chosen_names(args.concepts, config)
    if config.concept.weights is not None or config.concept.path is not None:
        raise UserError(
            "compare learns every concept of a library itself; leave out concept.weights and "
            "concept.path, and give concept.library if it is your own."
        )
    configs = method_configs(args, words) if args.personalizers is not None else {}
    for each in configs.values() or [config]:
        one_device(each)
    plan = arms_plan(
        config,
        names,
        name="compare",
        layout=(METHOD if configs else "") + "concepts/{concept}/images/{arm}/{prompt}-{seed}.png",
        methods={name: each.personalizer for name, each in configs.items()} or None,
        overrides=[text for text in args.overrides if text.startswith("run.")],
    )
    place = config_folder(config, "runs/compare")
    if first_rank():
        _check_fresh(place.path, args.resume)
    run_experiment(plan, place)
    if first_rank():
        _report(plan, place.path, list(configs))
    return 0


def method_configs(args: argparse.Namespace, words: list[str]) -> dict[str, Config]:
    """The configuration of each method of ``--personalizers``, with its own settings.

    Raises:
        UserError: one is not known, or the configuration names another.
    """
    from framework.config.page import load_config

    found = {}
    for method in chosen_methods(args.personalizers):
        sources = [CONFIG, *(args.config or [])]
        found[method] = load_config(sources, [f"personalizer={method}", *words])
        if found[method].personalizer["name"] != method:
            raise UserError(
                f"--personalizers has '{method}' and the configuration says personalizer="
                f"{found[method].personalizer['name']}; give one of the two."
            )
    return found


def chosen_methods(text: str) -> list[str]:
    """The personalizers of ``--personalizers``, each once, in the order given.

    Raises:
        UserError: none is given, or one is not known.
    """
    from framework.interfaces import PERSONALIZERS

    if text == ALL:
        return list(METHODS)
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not names:
        raise UserError(f"--personalizers is '{text}'; expected 'all' or names joined by commas.")
    for name in names:
        PERSONALIZERS.get(name)
    return names


def chosen_names(text: str, config: Config) -> list[str]:
    """The concepts of ``--concepts``, each once, in the order given.

    Raises:
        UserError: a name is not in the library, or the library is empty.
    """
    from framework.concepts.folders import list_concepts

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


def _check_fresh(folder: Path, resume: bool) -> None:
    done = sorted({path.parents[2].name for path in folder.glob("**/concepts/*/images/*/*.json")})
    if done and not resume:
        raise UserError(
            f"The output folder '{folder}' already has pictures of {len(done)} concept(s) "
            f"({', '.join(done[:3])}{', ...' if len(done) > 3 else ''}). Add --resume to keep them "
            "and go on, or give another --output."
        )


def _report(plan: Plan, folder: Path, methods: list[str]) -> None:
    """Write each concept's ``result.json`` and ``grid.png``, then the tables; print them."""
    from framework.experiments.arm_tables import (
        arms_verdict,
        concepts_table,
        mean_seconds,
        means_of,
        methods_table,
        plain_means,
        sentences,
    )
    from framework.experiments.arms import read_pairs, results_of
    from framework.runs.atomic import write_atomic
    from framework.runs.machine import hardware, versions

    reports: dict[str, dict[str, Any]] = {}
    for pair in read_pairs(plan, folder):
        reports.setdefault(pair.method, {})[pair.concept] = _write_concept(plan, pair, folder)
    means = {method: means_of(results_of(plan, folder, method)) for method in reports}
    about = {"versions": versions(), "hardware": hardware()}
    said: list[str] = []
    if methods:
        table = methods_table(reports, means)
        content: dict[str, Any] = {
            "methods": {
                method: {
                    "concepts": reports[method],
                    "mean": plain_means(means[method]),
                    "seconds": mean_seconds(list(reports[method].values())),
                }
                for method in reports
            }
        }
    else:
        ((method, found),) = reports.items()
        table, said = concepts_table(found, means[method]), sentences(means[method])
        content = {
            "concepts": found,
            "mean": plain_means(means[method]),
            "verdict": arms_verdict(means[method]),
        }
    said.append(f"On {about['hardware']}.")
    write_atomic(folder / "table.md", table + "\n" + "\n".join(said) + "\n")
    write_atomic(folder / "results.json", json.dumps(content | about, indent=2) + "\n")
    _print(table, said, folder, 140 if methods else None)


def _print(table: str, said: list[str], folder: Path, width: int | None) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(highlight=False, width=width)
    console.print(Markdown(table))
    for sentence in said:
        console.print(sentence, soft_wrap=True)
    for name in ("table.md", "results.json", "concepts/", "report.html"):
        if (folder / name).exists():
            console.print(f"  {folder / name}", soft_wrap=True)


def _write_concept(plan: Plan, pair: Pair, folder: Path) -> dict[str, Any]:
    """One concept's report; its files are left alone if nothing has changed."""
    from framework.experiments.arm_pictures import write_grid
    from framework.runs.atomic import write_atomic

    place = (folder / pair.cells["baseline"][0].file).parents[2]
    report = pair.report()
    text = json.dumps(report, indent=2) + "\n"
    note, grid = place / "result.json", place / "grid.png"
    if not note.is_file() or note.read_text(encoding="utf-8") != text or not grid.is_file():
        (subject,) = {
            id(s.subject): s.subject
            for s in plan.settings
            if (s.concept, s.config.personalizer["name"]) == (pair.concept, pair.method)
        }.values()
        write_grid(pair, subject, report, folder, grid)
        write_atomic(note, text)
    return report
