"""The reference branch: what an evaluation of it leaves for the targets, computed or cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from framework.backbones.denoiser import Denoiser
from framework.backbones.model import Condition
from framework.runs.fingerprint import combine, of_module
from framework.sampling.cache.store import Cache
from framework.sampling.plan import Parts, Plan
from framework.sampling.session import Session
from framework.types import Layout, Reference


@dataclass(frozen=True)
class ReferenceStep:
    """What one evaluation of the reference branch alone leaves.

    Attributes:
        output: the U-Net's raw output, (halves, C, h, w).
        attention: by ``LAYER/query``, ``LAYER/key`` or ``LAYER/value`` what the injector uses of
            each matched layer, (halves, heads, H * W, d).
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


def separable(parts: Parts) -> bool:
    """Whether the reference branch can be evaluated apart from the targets."""
    describes = parts.extractor.separable or not parts.matcher.needs_features
    return describes and parts.mask.separable


class ReferenceBranch:
    """Evaluates the reference at a step, or finds what an earlier evaluation left.

    It depends on nothing of the targets: the reference's attention is plain self-attention.

    Args:
        denoiser: the model with its schedule.
        parts: the sampler's parts.
        plan: which step needs what.
        session: of the sampling call, attached.
        reference: the prepared reference.
        condition: its text condition, one row for each half.
        layers: paths of the matched layers.
        cache: where results are kept.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        parts: Parts,
        plan: Plan,
        session: Session,
        reference: Reference,
        condition: Condition,
        layers: list[str],
        cache: Cache,
    ) -> None:
        self.denoiser, self.parts, self.plan, self.session = denoiser, parts, plan, session
        self.reference, self.condition, self.layers, self.cache = (
            reference,
            condition,
            layers,
            cache,
        )
        self.halves = len(condition.embeds)

    def step(self, index: int) -> ReferenceStep:
        """The reference at a step of the schedule."""
        if not self.cache.enabled:
            return self._evaluate(index)
        key = self._key(index)
        found = self.cache.get(key, self._group)
        if found is not None and "output" in found:
            device = self.reference.trajectory.device
            return ReferenceStep.from_tensors({n: t.to(device) for n, t in found.items()})
        result = self._evaluate(index)
        self.cache.put(key, result.to_tensors(), self._group)
        return result

    def latents(self, index: int) -> Tensor:
        """What the U-Net is shown, (halves, C, h, w)."""
        return self.reference.trajectory[index].repeat(self.halves, 1, 1, 1)

    def _evaluate(self, index: int) -> ReferenceStep:
        plan, session, parts = self.plan, self.session, self.parts
        masked = plan.masks(index)
        recorded: dict[str, Tensor] = {}
        with torch.no_grad(), session.recording(recorded if plan.injects(index) else None, masked):
            session.begin_step(Layout(self.halves, 1, 0), injecting=False)
            output = self.denoiser.model.denoise(
                self.latents(index), self.denoiser.timesteps[index], self.condition
            )
        described = plan.captures(index) and parts.matcher.needs_features
        return ReferenceStep(
            output=output,
            attention=recorded,
            features=parts.extractor.remember() if described else {},
            masks=parts.mask.remember() if masked else {},
        )

    @cached_property
    def _group(self) -> str:
        """One for all steps of this reference under this model, schedule and condition."""
        added = [
            part
            for name in sorted(self.condition.added)
            for part in (name, self.condition.added[name])
        ]
        return combine(
            "reference pass",
            of_module(self.denoiser.model.unet),
            self.denoiser.model.dtype,
            self.denoiser.model.device.type,
            self.reference.trajectory,
            self.denoiser.timesteps,
            self.condition.embeds,
            *added,
        )

    def _key(self, index: int) -> str:
        plan, parts = self.plan, self.parts
        injects, captures = plan.injects(index), plan.captures(index)
        return combine(
            self._group,
            index,
            (self.layers, parts.injector.uses) if injects else (),
            parts.extractor.memory_key() if captures and parts.matcher.needs_features else "",
            parts.mask.memory_key() if plan.masks(index) else "",
        )
