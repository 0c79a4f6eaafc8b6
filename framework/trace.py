"""Joining the traces of several batches."""

from __future__ import annotations

from typing import Any

import torch

from framework.types import Features, Masks, StepTrace


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
