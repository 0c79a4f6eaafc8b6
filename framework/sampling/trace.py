"""What is recorded of the steps, and joining the traces of several batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.errors import UserError, unknown_name
from framework.sampling.plan import Step
from framework.types import Features, Masks, StepTrace

if TYPE_CHECKING:
    from framework.sampling.reference import ReferenceRun

#: Asks for the last injected step alone.
LAST = "last"
#: What a step's record can hold beside its latents; the descriptors alone are hundreds of
#: megabytes a step at 64 x 64 cells.
KEPT = ("clean", "matches", "masks", "features")


@dataclass(frozen=True)
class TraceOptions:
    """What is recorded of which steps.

    Attributes:
        kept: some of :data:`KEPT`.
        steps: indices of the steps; None is every one.
        only_last: record the last injected step alone.
    """

    kept: frozenset[str] = frozenset(KEPT)
    steps: frozenset[int] | None = None
    only_last: bool = False

    def covers(self, step: int, last: bool) -> bool:
        """Whether a step is recorded.

        Args:
            step: its index.
            last: whether it is the last injected one.
        """
        if self.only_last and not last:
            return False
        return self.steps is None or step in self.steps


def trace_options(
    wanted: bool | Sequence[str], steps: Sequence[int] | None = None
) -> TraceOptions | None:
    """Read the sampler's arguments ``return_trace`` and ``trace_steps``.

    Args:
        wanted: False for no trace, True for all of :data:`KEPT`, some of their names, or
            :data:`LAST` for all of the last injected step alone.
        steps: which steps; None for all.

    Raises:
        UserError: a name is unknown, or a step is no index.
    """
    if wanted is False:
        return None
    if wanted == LAST:
        return TraceOptions(only_last=True)
    names = KEPT if wanted is True else (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if name not in KEPT:
            raise unknown_name("part of a trace", str(name), KEPT)
    if steps is not None:
        for step in steps:
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise UserError(f"trace_steps has {step!r}; expected indices of steps, from 0.")
    return TraceOptions(frozenset(names), None if steps is None else frozenset(steps))


class Recorder:
    """Records the steps of one sampling call.

    Args:
        options: what is recorded of which steps; None: nothing.

    Attributes:
        records: one entry for each recorded step.
    """

    def __init__(self, options: TraceOptions | None) -> None:
        self.options = options
        self.records: list[StepTrace] = []

    def record(
        self, step: Step, runs: Sequence[ReferenceRun], clean: Tensor, latents: Tensor
    ) -> None:
        """Note what a step saw of the first reference.

        Args:
            step: the step.
            runs: the references.
            clean: predicted clean targets after guidance, (N, C, h, w).
            latents: the targets' latents after the step, (N, C, h, w).
        """
        options, run = self.options, next(iter(runs), None)
        injects = run is not None and run.plan.injects(step.index)
        last = run is not None and injects and not run.plan.injects(step.index + 1)
        if options is None or not options.covers(step.index, last):
            return
        kept = clean if "clean" in options.kept else clean[:, :0]
        record = StepTrace(step.index, step.timestep, kept.cpu(), latents.detach().cpu())
        self.records.append(record)
        if run is None or not run.plan.shows_reference(step.index):
            return
        record.matched = injects
        if "clean" in options.kept:
            record.reference_clean = run.clean[-1:].cpu()
        if run.seen is None:
            return
        matches, masks, features = run.seen
        if "matches" in options.kept:
            record.flow, record.confidence = matches.flow.cpu(), matches.confidence.cpu()
        if "masks" in options.kept:
            record.masks = Masks(masks.target.cpu(), masks.reference.cpu())
        if features is not None and "features" in options.kept:
            record.features = Features(features.target.cpu(), features.reference.cpu())


def merge_traces(traces: list[list[StepTrace]]) -> list[StepTrace]:
    """Join step traces of several batches as if they had been one, halves kept together."""
    if len(traces) == 1:
        return traces[0]
    return [_merge_step(list(steps)) for steps in zip(*traces, strict=True)]


def _merge_step(steps: list[StepTrace]) -> StepTrace:
    first = steps[0]
    counts = [len(step.latents) for step in steps]

    def join(values: list[Any]) -> Any:
        return None if values[0] is None else _join_halves(values, counts)

    def join_pair(kind: type, values: list[Any]) -> Any:
        if values[0] is None:
            return None
        return kind(join([v.target for v in values]), join([v.reference for v in values]))

    return StepTrace(
        step=first.step,
        timestep=first.timestep,
        target_clean=torch.cat([step.target_clean for step in steps]),
        latents=torch.cat([step.latents for step in steps]),
        reference_clean=first.reference_clean,
        matched=first.matched,
        flow=join([step.flow for step in steps]),
        confidence=join([step.confidence for step in steps]),
        masks=join_pair(Masks, [step.masks for step in steps]),
        features=join_pair(Features, [step.features for step in steps]),
    )


def _join_halves(tensors: list[Any], targets: list[int]) -> Any:
    """(halves * N_k, ...) tensors of several batches -> (halves * sum N_k, ...)."""
    halves = len(tensors[0]) // targets[0]
    chunks = [tensor.chunk(halves) for tensor in tensors]
    return torch.cat([chunk[half] for half in range(halves) for chunk in chunks])
