"""One reference in one sampling call: what it leaves, what it is matched with, where it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from framework.interfaces import AttentionInputs, GuidanceInputs
from framework.interfaces.layers import LayerCall
from framework.interfaces.shapes import grid_of
from framework.interfaces.step import StepContext, StepOutputs
from framework.sampling.matching import Matching
from framework.sampling.memory import ReferencePass
from framework.sampling.network import PROJECTED
from framework.sampling.plan import Step
from framework.types import Correspondence, Features, Masks


@dataclass
class ReferenceRun(ReferencePass):
    """One reference in one sampling call: what targets are matched with, and where it acts.

    Attributes:
        matching: descriptors, masks and matches.
        seen: matches, masks and descriptors of the finest (if several, the last) layer injected in
            this step.
    """

    matching: Matching = field(init=False)
    seen: tuple[Correspondence, Masks, Features | None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.matching = Matching(self.parts, self.layout)
        self._outputs: StepOutputs | None = None  # of the last step
        self._matched: dict[str, Correspondence] = {}  # by layer, in this step

    # ---------------------------------------------------------------- one step

    def enter(self, step: Step) -> None:
        """Begin a step: show the reference to the network, or find what it left in the cache."""
        self.step, self.memory = step, None
        self.matching.begin_step()
        if self.plan.shows_reference(step.index):
            self.parts.mask.begin_step(self._context(shows_reference=True))
            self.memory = self.remember()

    def begin(self) -> None:
        """Begin an evaluation of the targets: nothing has been seen or matched in it yet."""
        self.seen, self._matched = None, {}
        self.matching.begin_evaluation()
        parts = self.parts
        parts.mask.begin_step(self._context(parts.mask.history))
        parts.matcher.begin_step(self._context(parts.matcher.needs.history))
        if self.memory is not None and self.plan.masks(self.step.index):
            parts.mask.recall(self.memory.masks)

    def describe(self, step: Step, clean: Tensor) -> None:
        """Make the descriptors and pictures that layers are matched with from here on.

        Args:
            step: the step, whose targets have just been evaluated.
            clean: predicted clean targets z0_hat^Y, (B, C, h, w).
        """
        self._describe(self._outputs_of(step, clean))

    def leave(self, step: Step, clean: Tensor) -> None:
        """End a step's evaluation; describe it if the next step or guidance wants its features.

        Args:
            step: the step.
            clean: predicted clean targets z0_hat^Y, (B, C, h, w).
        """
        self._outputs = self._outputs_of(step, clean)
        if self.plan.describes(step.index):
            self._describe(self._outputs)

    def guide(self, step: Step, noisy: Tensor, output: Tensor) -> Tensor:
        """The network's prediction, corrected if this reference guides the step.

        Args:
            step: the step.
            noisy: z_t of the targets, (B, C, h, w).
            output: the prediction in the checkpoint's own type, (B, C, h, w).

        Returns:
            (B, C, h, w).
        """
        if not self.guides(step):
            return output
        schedule, level = self.denoiser.schedule, step.level
        with torch.no_grad():
            masks = self.matching.masks(self.latent_size)
            matches = self.matching.match(self.latent_size, masks)
        with torch.enable_grad():
            eps = self.parts.guidance(
                GuidanceInputs(
                    latents=noisy,
                    eps=schedule.to_eps(output, noisy, level),
                    level=level,
                    reference_clean=self.reference.latent.expand(len(noisy), -1, -1, -1),
                    correspondence=matches,
                    masks=masks,
                    halves=self.layout.halves,
                    step=step.index,
                    timestep=step.timestep,
                    decode=self.denoiser.model.decode,
                    reference=self.reference,
                )
            ).detach()
        return schedule.from_eps(eps, noisy.detach(), level)

    def guides(self, step: Step) -> bool:
        """Whether this reference guides the step."""
        return self.plan.guides(step.index) and step.level.a > 0

    # ---------------------------------------------------------------- inside an evaluation

    def acts_in(self, layer: str) -> bool:
        """Whether its injector acts in a layer in this step."""
        return layer in self.layers and self.plan.injects(self.step.index)

    def grid(self, positions: int) -> tuple[int, int]:
        """Grid (H, W) of an attention layer with that many positions."""
        return grid_of(positions, *self.latent_size)

    def attend(
        self, layer: LayerCall, seen: Mapping[str, Tensor], masks: Masks | None = None
    ) -> Tensor:
        """The targets' attention in one layer, (B, heads, H * W, d).

        Args:
            layer: what the layer was given.
            seen: what an injector may use of it, by name.
            masks: where to inject, (B, H, W); default: this reference's own masks.
        """
        grid, injector = self.grid(layer.query.shape[2]), self.parts.injector
        inputs = self._inputs(layer, seen, grid)
        masks = self.matching.masks(grid) if masks is None else masks
        if not injector.needs_correspondence:
            return injector(inputs, None, masks)
        matches = self.matching.correspondence(grid)
        self._matched[layer.name] = matches
        if self.seen is None or grid[0] >= self.seen[0].flow.shape[1]:
            self.seen = matches, masks, self.matching.features
        return injector(inputs, matches, masks)

    def _inputs(
        self, layer: LayerCall, seen: Mapping[str, Tensor], grid: tuple[int, int]
    ) -> AttentionInputs:
        uses, halves = self.parts.injector.uses, self.layout.halves
        memory = {} if self.memory is None else self.memory.attention
        recalled = {n: memory[f"{layer.name}/{n}"] for n in uses if f"{layer.name}/{n}" in memory}
        return AttentionInputs(
            query=layer.query,
            key=layer.key,
            value=layer.value,
            reference={name: self.layout.pair(tensor) for name, tensor in recalled.items()},
            grid=grid,
            scale=layer.scale,
            target={n: seen[n] for n in uses if n in seen and n not in PROJECTED},
            tokens={
                "target": self.target_tokens * halves,
                "reference": [self.reference_tokens] * self.layout.pairs,
            },
            layer=layer.name,
            step=self.step.index,
            signal=self.step.signal,
            noise=self.step.noise,
            matches=dict(self._matched),
        )

    # ---------------------------------------------------------------- what parts are told

    def _describe(self, outputs: StepOutputs) -> None:
        if self.memory is not None and self.parts.matcher.needs.features:
            self.parts.extractor.recall(self.memory.features)
        self.matching.describe(outputs)

    def _context(self, history: int = 0, shows_reference: bool = False) -> StepContext:
        """What a part is told when an evaluation begins; of the reference's own nothing else, as
        what it leaves must not depend on the targets."""
        return StepContext(
            index=self.step.index,
            steps=self.plan.steps,
            timestep=self.step.timestep,
            signal=self.step.signal,
            noise=self.step.noise,
            layout=self.layout,
            reference=self.reference,
            shows_reference=shows_reference,
            before=None if shows_reference else self._outputs,
            matches={} if shows_reference else self.matching.before,
            history=tuple(features for _, features in self.matching.history[:history]),
        )

    def _outputs_of(self, step: Step, clean: Tensor) -> StepOutputs:
        def evaluate(rows: Tensor, timestep: float, of_reference: bool) -> None:
            condition = self.step_condition if of_reference else self.network.condition
            with torch.no_grad():
                self.network.plain(rows, timestep, condition)

        return StepOutputs(
            index=step.index,
            timestep=step.timestep,
            layout=self.layout,
            reference=self.reference,
            target_clean=clean,
            reference_clean=self.clean,
            decode=self.denoiser.model.decode,
            level=self.denoiser.level,
            evaluate=evaluate,
        )
