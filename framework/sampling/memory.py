"""What an evaluation of the reference leaves for the targets: computed, or found in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from framework.runs.fingerprint import combine, of_module

if TYPE_CHECKING:
    from framework.sampling.reference import ReferenceRun


@dataclass(frozen=True)
class ReferenceStep:
    """What one evaluation of the reference leaves.

    Attributes:
        output: the network's raw output, (halves, C, h, w).
        attention: by ``LAYER/NAME`` what the injector uses of each matched layer, (halves, ...).
        features: what the extractor remembers.
        masks: what the mask provider remembers.
    """

    output: Tensor
    attention: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]

    def to_tensors(self) -> dict[str, Tensor]:
        """As one flat mapping."""
        groups = {"attention": self.attention, "features": self.features, "masks": self.masks}
        flat = {
            f"{group}:{name}": tensor
            for group, tensors in groups.items()
            for name, tensor in tensors.items()
        }
        return {"output": self.output, **flat}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ReferenceStep:
        """Undo :meth:`to_tensors`."""
        groups: dict[str, dict[str, Tensor]] = {"attention": {}, "features": {}, "masks": {}}
        for name, tensor in tensors.items():
            group, colon, rest = name.partition(":")
            if colon:
                groups[group][rest] = tensor
        return cls(output=tensors["output"], **groups)


def remembered(run: ReferenceRun) -> ReferenceStep:
    """What a reference leaves in its running step, from its cache or evaluated now."""
    if not run.cache.enabled:
        return _evaluate(run)
    key = _key(run)
    found = run.cache.get(key, run.group)
    if found is not None and "output" in found:
        device = run.reference.trajectory.device
        return ReferenceStep.from_tensors({n: t.to(device) for n, t in found.items()})
    result = _evaluate(run)
    run.cache.put(key, result.to_tensors(), run.group)
    return result


def group_of(run: ReferenceRun) -> str:
    """One for all steps of a reference under its model, schedule and condition."""
    added = [part for item in sorted(run.condition.added.items()) for part in item]
    embeds = [part for item in sorted(run.reference.embeds.items()) for part in item]
    return combine(
        "reference pass",
        of_module(run.denoiser.model.network),
        run.denoiser.model.dtype,
        run.denoiser.model.device.type,
        run.reference.trajectory,
        run.denoiser.timesteps,
        run.condition.embeds,
        *added,
        *embeds,
    )


def _evaluate(run: ReferenceRun) -> ReferenceStep:
    plan, parts, step = run.plan, run.parts, run.step
    output, recorded = run.network.reference(run)
    described = plan.captures(step.index) and parts.matcher.needs_features
    return ReferenceStep(
        output=output,
        attention=recorded,
        features=parts.extractor.remember() if described else {},
        masks=parts.mask.remember() if plan.masks(step.index) else {},
    )


def _key(run: ReferenceRun) -> str:
    plan, parts, index = run.plan, run.parts, run.step.index
    captures = plan.captures(index) and parts.matcher.needs_features
    return combine(
        run.group,
        index,
        (run.layers, parts.injector.uses) if plan.injects(index) else (),
        parts.extractor.memory_key() if captures else "",
        parts.mask.memory_key() if plan.masks(index) else "",
    )
