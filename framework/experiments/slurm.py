"""A plan as a job array: each task draws a fixed part of the batches, in one process a device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.experiments.batches import share
from framework.experiments.folder import LOG, missing, open_folder, plan_batches
from framework.experiments.plan import Plan, load_plan
from framework.experiments.plan_file import plan_file
from framework.experiments.run import run_plan

#: Set by SLURM inside an allocation; a task that does not start ranks itself must not see them.
_SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_NAME")


class Task:
    """One task of the array; submitit pickles it.

    Args:
        plan: the plan's file or name.
        overrides: of the plan.
        folder: of the run.
        part: number of this task.
        parts: number of tasks.
    """

    def __init__(
        self, plan: str, overrides: Sequence[str], folder: Path, part: int, parts: int
    ) -> None:
        self.plan, self.overrides, self.folder = plan, list(overrides), folder
        self.part, self.parts = part, parts

    def __call__(self) -> int:
        """Draw this task's part of what the plan has; how many pictures were missing."""
        for name in _SLURM:  # Lightning would take them for ranks of one run
            os.environ.pop(name, None)
        plan = load_plan(self.plan, self.overrides)
        if plan.run.devices == "auto":
            plan = replace(plan, run=replace(plan.run, devices=1))
        mine = share(plan_batches(plan), self.part, self.parts)
        return run_plan(plan, self.folder, mine)

    def checkpoint(self) -> Any:
        """What submitit queues again after a time-out or preemption: the same; files are kept."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Array:
    """How a plan is submitted.

    Attributes:
        tasks: at most so many; fewer if fewer batches are missing.
        cluster: ``slurm`` or ``local``.
        minutes: time limit of a task.
        options: SLURM's, e.g. ``partition``.
    """

    tasks: int
    cluster: str = "slurm"
    minutes: int = 240
    options: Mapping[str, str] = field(default_factory=dict)


def submit(
    plan: Plan,
    source: str | Path,
    overrides: Sequence[str],
    folder: Path,
    array: Array,
) -> list[Any]:
    """Submit what is missing.

    Args:
        plan: the plan.
        source: its file or name, read again by the tasks.
        overrides: of the plan.
        folder: of the run, on a file system that all nodes share.
        array: how it is submitted.

    Returns:
        submitit's jobs.

    Raises:
        UserError: submitit is not installed, there is no SLURM, or nothing is missing.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "submit needs submitit, which is not installed: pip install 'dreammatcher[slurm]'."
        ) from error
    folder = open_folder(folder, plan).resolve()
    batches = plan_batches(plan)
    todo = missing(folder, batches)
    if not todo:
        raise UserError(
            f"All {len(plan.cells)} pictures of the plan are in '{folder}' already; score them "
            "with 'dreammatcher ablate' and the same arguments."
        )
    count = min(array.tasks, len(todo))
    try:
        executor = submitit.AutoExecutor(
            folder=folder / LOG / "submit" / "%j", cluster=array.cluster
        )
    except RuntimeError as error:
        raise UserError(
            f"There is no {array.cluster} here: {error} Try --cluster local."
        ) from error
    executor.update_parameters(name=f"dm-{plan.name}"[:32], timeout_min=array.minutes)
    if array.cluster == "slurm":
        executor.update_parameters(**{f"slurm_{key}": value for key, value in _own(array.options)})
    path = str(plan_file(source).resolve())
    parts = [Task(path, overrides, folder, part, count) for part in range(count)]
    jobs: list[Any] = []
    with executor.batch():
        jobs.extend(executor.submit(part) for part in parts)
    return jobs


def _own(options: Mapping[str, str]) -> list[tuple[str, Any]]:
    names = {"gpus": "gres", "gpu": "gres"}
    found: list[tuple[str, Any]] = []
    for key, value in options.items():
        if key in names:
            found.append((names[key], f"gpu:{value}"))
        else:
            found.append((key, int(value) if value.isdigit() else value))
    return found
