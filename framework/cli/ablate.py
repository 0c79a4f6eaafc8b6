"""Draw, score and tabulate an ablation: one configuration file, one command.

CONFIG is a file, or the name of a plan in configs/ablations. What is already drawn is kept; the
same command goes on where an interrupted one stopped. Overrides change the plan (seeds=[0,1],
run.devices=2) or the configuration of all its variants (sampler.num_inference_steps=10).

examples:
  dreammatcher ablate components --dry-run
  dreammatcher ablate components --output runs/components
  dreammatcher ablate my_plan.yaml concepts=taxi_car,bee_lamp run.devices=2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.experiments.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("plan", metavar="CONFIG", help="YAML file, or a shipped plan's name")
    parser.add_argument("--output", metavar="DIR", help="run folder (default runs/ablate/NAME)")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan, time a few cells, draw nothing"
    )
    parser.add_argument(
        "--timed",
        type=int,
        default=2,
        metavar="N",
        help="cells that --dry-run times (default 2; 0: none)",
    )
    parser.add_argument("--no-scores", action="store_true", help="draw only")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. seeds=[0,1] or run.devices=2"
    )


def run(args: argparse.Namespace) -> int:
    """Draw, score, tabulate."""
    from framework.experiments.plan import load_plan

    plan = load_plan(args.plan, args.overrides)
    folder = default_folder(plan, args.output)
    if args.dry_run:
        from framework.experiments.estimate import describe

        print(describe(plan, folder, args.timed))
        return 0
    from framework.experiments.run import first_rank, run_plan

    if first_rank() and not args.no_scores:
        check_encoders(plan)
    drawn = run_plan(plan, folder)
    if not first_rank():
        return 0
    print(f"{drawn} picture(s) drawn, {len(plan.cells)} in {folder / 'images'}")
    if args.no_scores:
        return 0
    from framework.experiments.evaluate import evaluate_run, print_results

    print_results(evaluate_run(plan, folder), folder)
    return 0


def check_encoders(plan: Plan) -> None:
    """Load what will score the pictures once, so that what is missing is said before the drawing.

    Raises:
        UserError: an encoder cannot be loaded.
    """
    from framework.metrics.loading import load_encoders
    from framework.metrics.protocols import protocol

    for name in plan.protocols:
        load_encoders(protocol(name).apply(plan.config.evaluation))


def default_folder(plan: Plan, output: str | None) -> Path:
    """The run folder of a plan."""
    return Path(output or Path("runs/ablate") / plan.name).expanduser()
