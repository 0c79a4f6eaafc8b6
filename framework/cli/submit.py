"""Draw a plan as a SLURM job array (through submitit), each task a part of the batches.

Tasks share the run folder; each draws its part and may be repeated or resumed on its own. When all
are done, 'dreammatcher ablate' with the same plan and folder scores and reports.

examples:
  dreammatcher submit components --output runs/components --tasks 8 --slurm partition=gpu,gpus=1
  dreammatcher submit components --output runs/components --tasks 2 --cluster local
"""

from __future__ import annotations

import argparse

from framework.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("plan", metavar="CONFIG", help="YAML file, or a shipped plan's name")
    parser.add_argument("--output", metavar="DIR", help="run folder (default runs/ablate/NAME)")
    parser.add_argument("--tasks", type=int, default=4, metavar="N", help="tasks of the array")
    parser.add_argument(
        "--cluster", choices=("slurm", "local"), default="slurm", help="local: processes here"
    )
    parser.add_argument(
        "--minutes", type=int, default=240, metavar="N", help="time limit of a task (default 240)"
    )
    parser.add_argument(
        "--slurm",
        metavar="k=v,...",
        default="",
        help="partition=..., gpus=..., mem=..., account=...",
    )
    parser.add_argument("--wait", action="store_true", help="wait until all tasks have ended")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for ablate")


def run(args: argparse.Namespace) -> int:
    """Submit."""
    from framework.cli.ablate import run_folder
    from framework.experiments.plan import load_plan
    from framework.experiments.slurm import Array, submit

    if args.tasks < 1 or args.minutes < 1:
        raise UserError("--tasks and --minutes must be at least 1.")
    plan = load_plan(args.plan, args.overrides)
    folder = run_folder(plan, args.output).path
    jobs = submit(
        plan,
        args.plan,
        args.overrides,
        folder,
        Array(args.tasks, args.cluster, args.minutes, slurm_options(args.slurm)),
    )
    print(f"{len(jobs)} task(s) submitted: {', '.join(job.job_id for job in jobs)}")
    print(f"logs in {folder / 'log' / 'submit'}")
    if args.wait:
        failed = [job.job_id for job in jobs if job.exception() is not None]
        if failed:
            raise UserError(
                f"Task(s) {', '.join(failed)} failed; see their logs, and submit again: what is "
                "drawn is kept."
            )
        print("all tasks have ended")
    return 0


def slurm_options(text: str) -> dict[str, str]:
    """``partition=gpu,gpus=1`` as a mapping.

    Raises:
        UserError: an entry has no ``=``.
    """
    options = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = entry.partition("=")
        if not equals:
            raise UserError(f"--slurm has '{entry}'; expected key=value, e.g. partition=gpu.")
        options[key.strip()] = value.strip()
    return options
