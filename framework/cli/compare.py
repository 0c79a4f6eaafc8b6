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
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config
from framework.errors import UserError, unknown_name

if TYPE_CHECKING:
    from framework.config.page import Config
    from framework.types import Concept

logger = logging.getLogger(__name__)

CONFIG = "compare"
ALL = "all"
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


@dataclass(frozen=True)
class Task:
    """One concept to be learned by one method.

    Attributes:
        method: name of the personalizer.
        concept: the concept, under the word the method gives it.
        config: its configuration.
        folder: where everything of it goes.
    """

    method: str
    concept: Concept
    config: Config
    folder: Path


def run(args: argparse.Namespace) -> int:
    """Learn and draw everything, score everything, write, print."""
    from framework.config.page import load_config

    sources = [CONFIG, *(args.config or [])]
    config = load_config(sources, args.overrides)
    config = replace(config, output=args.output or config.output)
    from framework.backbones.loading import load_pipeline
    from framework.experiments.compare import check_prompts, rehearse
    from framework.experiments.two_pass import RESULT, judge_identity
    from framework.metrics.loading import load_encoders
    from framework.runs.folder import open_run
    from framework.training.personalize import one_device

    names = chosen_names(args.concepts, config)
    if config.concept.weights is not None or config.concept.path is not None:
        raise UserError(
            "compare learns every concept of a library itself; leave out concept.weights and "
            "concept.path, and give concept.library if it is your own."
        )
    folder = Path(config.output or "runs/compare").expanduser()
    configs = {config.personalizer["name"]: config}
    if args.personalizers is not None:
        configs = {
            method: replace(
                load_config(sources, [f"personalizer={method}", *args.overrides]),
                output=config.output,
            )
            for method in chosen_methods(args.personalizers)
        }
    for method, each in configs.items():
        one_device(each)
        if each.personalizer["name"] != method:
            raise UserError(
                f"--personalizers has '{method}' and the configuration says personalizer="
                f"{each.personalizer['name']}; give one of the two."
            )
    tasks = list(_tasks(configs, names, folder, several=args.personalizers is not None))
    logger.info("Loading the models ...")
    pipe = load_pipeline(config.model)
    for task in tasks:
        check_prompts(pipe, task.concept, task.config)
        task.config.part("personalizer").check(pipe, task.concept)
    rehearse(pipe, tasks[0].concept, config)
    encoders = load_encoders(config.evaluation, pipe.device)
    open_run(folder, config)
    for root, each in {t.folder.parents[1]: configs[t.method] for t in tasks}.items():
        if root != folder:
            open_run(root, each)
    _check_fresh(folder, args.resume)
    for name in ("results.json", "table.md"):
        (folder / name).unlink(missing_ok=True)
    _draw_all(pipe, tasks)
    judge = judge_identity(config.evaluation)
    reports: dict[str, dict[str, Any]] = {}
    for task in tasks:
        report = _score(task, encoders, judge)
        reports.setdefault(task.method, {})[task.concept.name] = report
    assert all((task.folder / RESULT).is_file() for task in tasks)
    if args.personalizers is None:
        _report(next(iter(reports.values())), folder)
    else:
        from framework.cli.methods import report_methods

        report_methods(reports, folder)
    return 0


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


def _tasks(configs: dict[str, Config], names: list[str], folder: Path, several: bool) -> Any:
    """Every concept with every method, so that an interrupted run has whole concepts."""
    from framework.concepts.folders import load_concept

    for name in names:
        for method, config in configs.items():
            root = folder / method.replace(":", ".") if several else folder
            own = replace(config, concept=replace(config.concept, name=name))
            yield Task(method, load_concept(own), own, root / "concepts" / name)


def _draw_all(pipe: Any, tasks: list[Task]) -> None:
    """First pass."""
    from framework.experiments.two_pass import draw_concept, drawn

    for place, task in enumerate(tasks, start=1):
        title = f"{place}/{len(tasks)}  {task.concept.name} ({task.method})"
        if drawn(task.folder, task.concept, task.config) is not None:
            logger.info("%s is drawn and kept", title)
            continue
        logger.info("%s", title)
        draw_concept(pipe, task.concept, task.config, task.folder)


def _score(task: Task, encoders: Any, judge: str) -> dict[str, Any]:
    """Second pass of one task, unless this judge has scored it."""
    from framework.cli.results import write_grid
    from framework.experiments.two_pass import finished, score_concept

    report = finished(task.folder, task.concept, task.config, judge)
    if report is None:
        report, comparison = score_concept(task.concept, task.config, encoders, judge, task.folder)
        write_grid(comparison, report, task.folder)
    return report


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
    done = sorted({path.parent.name for path in folder.glob("**/concepts/*/drawn.json")})
    if done and not resume:
        raise UserError(
            f"The output folder '{folder}' already has {len(done)} finished concept(s) "
            f"({', '.join(done[:3])}{', ...' if len(done) > 3 else ''}). Add --resume to keep them "
            "and go on, or give another --output."
        )


def _report(reports: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    from framework.cli.results import versions, write_json
    from framework.experiments.compare import BASELINE, LABELS, TREATED
    from framework.metrics.tables import markdown
    from framework.metrics.verdict import pool, sentences, verdict
    from framework.runs.atomic import write_atomic

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
