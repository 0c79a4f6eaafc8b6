"""The parts a sampler is made of, and which of them act in which step."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from typing import Any

from framework.interfaces import (
    BaseMatcher,
    FeatureExtractor,
    Guidance,
    Injector,
    Level,
    MaskProvider,
    ReferenceTrajectory,
)


@dataclass(frozen=True)
class Step:
    """One step of the loop.

    Attributes:
        index: t, 0 at noise.
        timestep: diffusion time.
        moment: the same as the scheduler has it.
        level: noise level of the latents, z = a z0 + s eps.
    """

    index: int
    timestep: float
    moment: Any
    level: Level

    @property
    def signal(self) -> float:
        """a in z = a z0 + s eps."""
        return self.level.a

    @property
    def noise(self) -> float:
        """s in z = a z0 + s eps."""
        return self.level.s


@dataclass(frozen=True)
class Parts:
    """The six parts a sampler is made of; the seventh, the personalizer, made the model."""

    trajectory: ReferenceTrajectory
    extractor: FeatureExtractor
    mask: MaskProvider
    matcher: BaseMatcher
    injector: Injector
    guidance: Guidance

    def twin(self) -> Parts:
        """Parts of the same options that share no state of a step with these."""
        return Parts(*(copy(getattr(self, item.name)) for item in fields(self)))


class Plan:
    """Which steps inject, are guided, and need the reference branch.

    Args:
        parts: the sampler's parts.
        steps: T.
    """

    def __init__(self, parts: Parts, steps: int) -> None:
        self.steps = steps
        self.parts = parts
        self.uses_reference = any(map(self.shows_reference, range(steps)))

    def injects(self, step: int) -> bool:
        """Whether matched layers act in this step."""
        injector = self.parts.injector
        if not injector.injects or step >= self.steps:
            return False
        end = injector.config.end_step
        return step >= injector.config.start_step and (end is None or step < end)

    def guides(self, step: int) -> bool:
        """Whether this step is guided."""
        return step < self.steps and self.parts.guidance.active(step)

    def matches(self, step: int) -> bool:
        """Whether an injector asks for matches in this step."""
        return self.injects(step) and self.parts.injector.needs_correspondence

    def looks_ahead(self, step: int) -> bool:
        """Whether this step is evaluated without injection first, for descriptors of its own."""
        return self.parts.extractor.current and self.matches(step)

    def describes(self, step: int) -> bool:
        """Whether this step's features are wanted: by the next step, or by guidance in this one."""
        following = self.matches(step + 1) and not self.parts.extractor.current
        return following or self.guides(step)

    def captures(self, step: int) -> bool:
        """Whether the extractor looks at activations of this step's reference; in every matched
        step, so that a loop may describe it."""
        return self.describes(step) or self.matches(step)

    def masks(self, step: int) -> bool:
        """Whether masks are used in this step."""
        return self.injects(step) or self.guides(step)

    def shows_reference(self, step: int) -> bool:
        """Whether the reference branch takes part in this step."""
        return self.injects(step) or self.describes(step)
