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

from framework.errors import check_range

if TYPE_CHECKING:
    from framework.experiments.plan import Plan
    from framework.runs.folder import RunFolder


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
    from framework.experiments.evaluate import print_results
    from framework.experiments.plan import load_plan
    from framework.experiments.ranks import first_rank
    from framework.experiments.run import check_machine, run_experiment

    check_range("--timed", args.timed, 0)
    plan = load_plan(args.plan, args.overrides)
    place = run_folder(plan, args.output)
    if args.dry_run:
        from framework.experiments.estimate import describe

        check_machine(plan)
        print(describe(plan, place, args.timed))
        return 0
    drawn, found = run_experiment(plan, place, scored=not args.no_scores)
    if not first_rank():
        return 0
    print(f"{drawn} picture(s) drawn, {len(plan.cells)} in {place.path}")
    print_results(found, place.path)
    return 0


def run_folder(plan: Plan, output: str | None) -> RunFolder:
    """The run folder of a plan: the one given, or the next one by itself."""
    from framework.experiments.folder import plan_folder

    if output is not None:
        return plan_folder(output, plan)
    return plan_folder(Path("runs/ablate") / plan.name, plan).free()
