"""What an evaluation of the reference leaves for the targets: computed, or found in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from framework.interfaces import Condition, Denoiser
from framework.interfaces.trajectory import HALVES
from framework.runs.fingerprint import combine, of_module
from framework.sampling.cache.store import Cache
from framework.sampling.network import Network
from framework.sampling.plan import Parts, Plan, Step
from framework.types import Layout, Reference


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


@dataclass
class ReferencePass:
    """A reference shown to the network on its own, step by step.

    It depends on nothing of the targets: its attention is plain self-attention. So it is evaluated
    apart from them, once for all, and what it leaves may come from the cache.

    Attributes:
        denoiser: the model with its schedule.
        network: evaluates the model with every reference attached.
        parts: parts that no other reference of the call uses; they hold state while drawing.
        reference: the prepared reference.
        condition: its text condition, one row for each half.
        layout: order of the target rows.
        latent_size: (h, w).
        target_tokens: where its concept stands in the prompt of each of the N targets.
        reference_tokens: where in its own.
        cache: where results are kept.
        plan: which parts act in which step.
        layers: paths of its matched layers.
        step: the running step.
        memory: what the reference left in this step; None where it is not shown.
    """

    denoiser: Denoiser
    network: Network
    parts: Parts
    reference: Reference
    condition: Condition
    layout: Layout
    latent_size: tuple[int, int]
    target_tokens: list[list[int]]
    reference_tokens: list[int]
    cache: Cache
    plan: Plan = field(init=False)
    layers: list[str] = field(init=False)
    step: Step = field(init=False)
    memory: ReferenceStep | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.plan = Plan(self.parts, len(self.denoiser.timesteps))
        self.layers = self.network.layers_of(self.parts.injector.config.layers)

    def remember(self) -> ReferenceStep:
        """What the reference leaves in the running step, from the cache or evaluated now."""
        if not self.cache.enabled:
            return self._evaluate()
        key = self._key()
        found = self.cache.get(key, self._group)
        if found is not None and "output" in found:
            device = self.reference.trajectory.device
            return ReferenceStep.from_tensors({n: t.to(device) for n, t in found.items()})
        result = self._evaluate()
        self.cache.put(key, result.to_tensors(), self._group)
        return result

    @property
    def latents(self) -> Tensor:
        """What the network is shown of the reference in this step, (halves, C, h, w)."""
        return self.reference.trajectory[self.step.index].repeat(self.layout.halves, 1, 1, 1)

    @property
    def clean(self) -> Tensor:
        """Predicted clean reference z0_hat^X of this step, (halves, C, h, w); in a step that does
        not show it to the network, its clean latent."""
        if self.memory is None:
            return self.reference.latent.repeat(self.layout.halves, 1, 1, 1)
        return self.denoiser.clean(self.memory.output, self.latents, self.step.timestep)

    @property
    def step_condition(self) -> Condition:
        """Text condition of the reference in this step, one row for each half."""
        embeds = self.reference.embeds
        if not embeds:
            return self.condition
        rows = [
            embeds[half][self.step.index].to(row) if half in embeds else row
            for half, row in zip(
                HALVES[-self.layout.halves :], self.condition.embeds.split(1), strict=True
            )
        ]
        return Condition(torch.cat(rows), self.condition.added)

    @cached_property
    def named(self) -> Tensor:
        """Which pairs name its concept, (B,), bool."""
        return torch.tensor([bool(tokens) for tokens in self.target_tokens] * self.layout.halves)

    def _evaluate(self) -> ReferenceStep:
        plan, parts, index = self.plan, self.parts, self.step.index
        output, recorded = self.network.reference(self)
        described = plan.captures(index) and parts.matcher.needs.features
        return ReferenceStep(
            output=output,
            attention=recorded,
            features=parts.extractor.remember() if described else {},
            masks=parts.mask.remember() if plan.masks(index) else {},
        )

    @cached_property
    def _group(self) -> str:
        """One for all steps of this reference under this model, schedule and condition."""
        added = [part for item in sorted(self.condition.added.items()) for part in item]
        embeds = [part for item in sorted(self.reference.embeds.items()) for part in item]
        return combine(
            "reference pass",
            of_module(self.denoiser.model.network),
            self.denoiser.model.dtype,
            self.denoiser.model.device.type,
            self.reference.trajectory,
            self.denoiser.timesteps,
            self.condition.embeds,
            *added,
            *embeds,
        )

    def _key(self) -> str:
        plan, parts, index = self.plan, self.parts, self.step.index
        captures = plan.captures(index) and parts.matcher.needs.features
        return combine(
            self._group,
            index,
            (self.layers, parts.injector.uses) if plan.injects(index) else (),
            parts.extractor.memory_key() if captures else "",
            parts.mask.memory_key() if plan.masks(index) else "",
        )
