"""What an image costs beside the plain diffusers pipeline, for several numbers of targets.

FLOPs (torch's counter), network rows and memory are counted without computing, exactly: from runs
of a few steps, as every step of one kind costs the same. Time is measured in whole runs, on the
configured model. The second model has random weights and Stable Diffusion 1.5's true dimensions.

With --processes it measures something else: how many images a second so many processes of an
ablation draw together, each with one thread, once all are running.

examples:
  dreammatcher bench
  dreammatcher bench --models configured --targets 8 --repeats 3
  dreammatcher bench --models sd15 --time none
  dreammatcher bench --processes 1,2
  dreammatcher bench --models configured --config models/sd1 model.path=FOLDER --time all
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config, config_of
from framework.errors import UserError, check_range

if TYPE_CHECKING:
    from framework.config.page import Config
    from framework.costs.costs import Time
    from framework.costs.models import Subject

logger = logging.getLogger(__name__)

MODELS = ("configured", "sd15")
TARGETS = (1, 4, 8)
TIMED = ("configured", "all", "none")
OUTPUT = "runs/bench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: both"
    )
    parser.add_argument(
        "--targets", nargs="+", type=int, metavar="N",
        help="images drawn together (default 1 4 8; one number, 4, with --processes)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, metavar="T", help="sampling steps (default: configured)"
    )
    parser.add_argument(
        "--time", choices=TIMED, default=TIMED[0],
        help="whose time is measured; the large model's takes hours without a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--processes", metavar="N,...",
        help="measure the throughput of so many processes instead, e.g. 1,2",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=int, metavar="N",
        help="with --processes: batches a process draws at most, its first not counted (default 5)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=2, help="timed runs, the least counts")
    parser.add_argument("--output", metavar="DIR", help=f"where results go (default {OUTPUT})")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, write, print."""
    config = config_of(args)
    if args.processes is not None:
        return run_throughput(config, args)
    if args.batches is not None:
        raise UserError("--batches says how long --processes measures; give both or neither.")
    args.targets = list(TARGETS) if args.targets is None else args.targets
    for number in args.targets:
        check_range("--targets", number, 1, 64)
    check_range("--repeats", args.repeats, 1)
    if args.steps is not None:
        check_range("--steps", args.steps, 1, 1000)
    if len(set(args.targets)) < len(args.targets):
        raise UserError(f"--targets has a number twice: {args.targets}; give each once.")

    from rich.console import Console

    from framework.costs.report import KEY, cost_markdown, cost_table, verdicts, with_ratios
    from framework.runs.atomic import write_atomic
    from framework.runs.machine import versions
    from framework.runs.progress import no_progress

    folder = Path(args.output or config.output or OUTPUT).expanduser()
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(args.models):
        logger.info("Measuring %s ...", name)
        with no_progress():
            rows += _measure(name, config, args)
    rows = with_ratios(rows)
    lines = verdicts(rows)
    about = {"rows": rows, "verdicts": lines, "versions": versions()}
    write_atomic(folder / "bench.json", json.dumps(about, indent=2) + "\n")
    write_atomic(folder / "table.md", cost_markdown(rows))
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        console.print(cost_table(own, f"{model}, {own[0]['steps']} steps, on {own[0]['device']}"))
    console.print(KEY)
    for line in lines:
        console.print(line)
    print(f"{folder / 'bench.json'} and {folder / 'table.md'}")
    return 0


def run_throughput(config: Config, args: argparse.Namespace) -> int:
    """Measure, write, print how fast several processes draw."""
    from dataclasses import asdict

    from framework.experiments import throughput
    from framework.runs.atomic import write_atomic

    try:
        processes = sorted(int(word) for word in args.processes.split(","))
    except ValueError as error:
        raise UserError(
            f"--processes is '{args.processes}'; expected numbers with commas between, e.g. 1,2."
        ) from error
    for number in processes:
        check_range("--processes", number, 1, 64)
    if len(set(processes)) < len(processes):
        raise UserError(f"--processes has a number twice: {args.processes}; give each once.")
    if args.targets is not None and len(args.targets) > 1:
        raise UserError(f"--targets is {args.targets}; with --processes give one number.")
    pictures = args.targets[0] if args.targets else throughput.PICTURES
    check_range("--targets", pictures, 1, 64)
    batches = throughput.BATCHES if args.batches is None else args.batches
    check_range("--batches", batches, 2)
    if args.steps is not None:
        check_range("--steps", args.steps, 1, 1000)
        config = replace(config, sampler=replace(config.sampler, num_inference_steps=args.steps))
    plan = throughput.throughput_plan(config, batches * max(processes), pictures)
    speeds = []
    for number in processes:
        logger.info("Drawing with %d process(es) ...", number)
        speeds.append(throughput.measure_speed(plan, number))
    folder = Path(args.output or config.output or OUTPUT).expanduser()
    told = [throughput.speed_table(speeds), throughput.aim_sentence(speeds)]
    about = {"speeds": [asdict(each) for each in speeds], "verdict": told[1]}
    write_atomic(folder / "throughput.json", json.dumps(about, indent=2) + "\n")
    print("\n".join(filter(None, told)))
    print(folder / "throughput.json")
    return 0


def _measure(name: str, config: Config, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm of one model for every number of targets, per image."""
    from framework.backbones.choose import backbone_of
    from framework.costs.costs import ARMS, PLAIN, counted, for_targets, timed
    from framework.costs.models import configured, sd15

    clock = args.time == "all" or (args.time == "configured" and name == "configured")
    subject: Subject = configured(config) if name == "configured" else sd15(config, random=clock)
    steps = args.steps or subject.config.sampler.num_inference_steps
    device = backbone_of(subject.pipe).device
    arms = [PLAIN, *ARMS]
    times: dict[int, dict[str, Time]] = {}
    if clock:
        for number in args.targets:
            logger.info("  timing %d image(s) at once", number)
            times[number] = timed(subject, arms, number, steps, args.repeats)
    counts = {}
    for arm in arms:
        logger.info("  counting: %s", arm)
        counts[arm] = [counted(subject, arm, number, steps) for number in (1, 2)]
    rows = []
    for number in args.targets:
        for arm in arms:
            one, two = counts[arm]
            cost = for_targets(one, two, number)
            took = times[number][arm] if clock else None
            rows.append(
                {
                    "model": subject.name,
                    "targets": number,
                    "arm": arm,
                    "steps": steps,
                    "device": str(device),
                    "flops": cost.flops / number,
                    "rows": cost.rows / number,
                    "peak": cost.peak / number,
                    "wall": took.wall / number if took else None,
                    "cpu": took.cpu / number if took else None,
                }
            )
    return rows
