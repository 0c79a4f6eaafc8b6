"""The network with every reference attached: who injects, who is recorded, who looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from framework.interfaces import Backbone, Condition
from framework.interfaces.layers import LayerCall
from framework.sampling.matching import Matching
from framework.sampling.plan import Parts, Plan, Step
from framework.types import Layout, Masks

#: What a layer is given, as injectors name it; and its queries, keys and values alone.
PROJECTED = ("query", "key", "value")
GIVEN = (*PROJECTED, "hidden_state")
CROSS_ATTENTION = "cross_attention"
#: The reference's own attention output.
OUTPUT = "output"


class Shown(Protocol):
    """A reference that is shown to the network on its own in a step."""

    parts: Parts
    plan: Plan
    step: Step
    layers: list[str]

    @property
    def latents(self) -> Tensor:
        """What the network is shown, (halves, C, h, w)."""

    @property
    def step_condition(self) -> Condition:
        """Its text condition in the running step, one row for each half."""


class Attached(Shown, Protocol):
    """A reference that is attached to the network for a sampling call."""

    layout: Layout
    latent_size: tuple[int, int]
    target_tokens: list[list[int]]
    reference_tokens: list[int]
    matching: Matching

    @property
    def named(self) -> Tensor:
        """Which pairs name its concept, (B,), bool."""

    def begin(self) -> None:
        """Begin an evaluation of the targets."""

    def grid(self, positions: int) -> tuple[int, int]:
        """Grid (H, W) of an attention layer with that many positions."""

    def acts_in(self, layer: str) -> bool:
        """Whether its injector acts in a layer in the running step."""

    def attend(
        self, layer: LayerCall, seen: Mapping[str, Tensor], masks: Masks | None = None
    ) -> Tensor:
        """The targets' attention in one layer, (B, heads, H * W, d)."""


class Network:
    """One model, evaluated in three ways while references are attached to it.

    Args:
        model: the model.
        condition: text condition of the targets, B rows.
    """

    def __init__(self, model: Backbone, condition: Condition) -> None:
        self.model, self.condition = model, condition
        self.runs: Sequence[Attached] = ()
        self._injecting = False
        self._recording: tuple[Shown, dict[str, Tensor]] | None = None
        self._maps: dict[int, Tensor] = {}

    @contextmanager
    def attached(self, runs: Sequence[Attached]) -> Iterator[None]:
        """While it lasts the references' parts look into the network; all is undone on leaving."""
        model, self.runs = self.model, runs
        patterns = [pattern for run in runs for pattern in run.parts.injector.config.layers]
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.parts.extractor.attach(model))
                stack.enter_context(
                    run.parts.mask.attach(
                        model, run.layout, run.latent_size, run.target_tokens, run.reference_tokens
                    )
                )
            if runs:
                layers = model.self_attentions(list(dict.fromkeys(patterns)))
                stack.enter_context(model.attending(layers, self._attend))
            if any(CROSS_ATTENTION in run.parts.injector.uses for run in runs):
                crossing = model.text_attentions([".*"], "injector.uses")
                stack.enter_context(model.tapped(crossing, self))
            yield

    def layers_of(self, patterns: Sequence[str]) -> list[str]:
        """Paths of the self-attention layers that match a pattern."""
        return self.model.self_attentions(patterns)

    # ---------------------------------------------------------------- evaluations

    def targets(self, rows: Tensor, timestep: float, detached: bool = False) -> Tensor:
        """The targets, with references injected; (B, C, h, w) -> (B, C, h, w).

        Args:
            rows: noisy latents, (B, C, h, w).
            timestep: diffusion time.
            detached: cut gradients at the output of every attention layer.
        """
        for run in self.runs:
            run.begin()
        self._injecting = True
        try:
            with self.model.detached_attention() if detached else nullcontext():
                return self._evaluate(rows, timestep, self.condition)
        finally:
            self._injecting = False

    def plain(self, rows: Tensor, timestep: float, condition: Condition) -> Tensor:
        """Any rows (n, C, h, w), neither injected into nor seen by the masks."""
        before, self._injecting = self._injecting, False
        try:
            with self._paused(self.runs):
                return self._evaluate(rows, timestep, condition)
        finally:
            self._injecting = before

    def reference(self, run: Shown) -> tuple[Tensor, dict[str, Tensor]]:
        """A reference alone in its running step; its masks see it where they are used.

        Returns:
            The prediction (halves, C, h, w), and by ``LAYER/NAME`` what the injector uses of each
            matched layer, if it acts in this step.
        """
        recorded: dict[str, Tensor] = {}
        index = run.step.index
        self._recording = (run, recorded) if run.plan.injects(index) else None
        blind = [one for one in self.runs if one is not run or not run.plan.masks(index)]
        try:
            with torch.no_grad(), self._paused(blind):
                output = self._evaluate(run.latents, run.step.timestep, run.step_condition)
                return output, recorded
        finally:
            self._recording = None

    def _evaluate(self, rows: Tensor, timestep: float, condition: Condition) -> Tensor:
        self._maps = {}
        output = self.model.denoise(rows, timestep, condition)
        return self.model.require_finite(output, self.model.network, "The network's values")

    @staticmethod
    @contextmanager
    def _paused(runs: Sequence[Attached]) -> Iterator[None]:
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.parts.mask.paused())
            yield

    # ---------------------------------------------------------------- inside an evaluation

    def wants(self, positions: int) -> bool:
        """Whether an injector looks at cross-attention maps in this evaluation."""
        return self._injecting or self._recording is not None

    def capture(self, layer: str, probabilities: Tensor) -> None:
        """Keep a layer's map, (rows, heads, positions, tokens), until the next of its grid."""
        self._maps[probabilities.shape[2]] = probabilities.detach().mean(dim=1)

    def _attend(self, layer: LayerCall) -> Tensor:
        """What a matched layer gives, (rows, heads, H * W, d)."""
        if self._recording is not None:
            run, recorded = self._recording
            output = layer.plain()
            if layer.name in run.layers:
                seen, uses = {**self._seen(layer), OUTPUT: output}, run.parts.injector.uses
                recorded.update({f"{layer.name}/{n}": seen[n] for n in uses if n in seen})
            return output
        runs = [run for run in self.runs if run.acts_in(layer.name)] if self._injecting else []
        if not runs:
            return layer.plain()
        if len(self.runs) == 1:
            return runs[0].attend(layer, self._seen(layer))
        return self._attend_several(layer, runs)

    def _seen(self, layer: LayerCall) -> Mapping[str, Tensor]:
        """Everything an injector may use of a layer, by name."""
        seen = {name: getattr(layer, name) for name in GIVEN}
        crossed = self._maps.get(layer.query.shape[2])
        return seen if crossed is None else seen | {CROSS_ATTENTION: crossed}

    def _attend_several(self, layer: LayerCall, runs: Sequence[Attached]) -> Tensor:
        """Each reference's output where its mask is the largest, (B, heads, H * W, d)."""
        grid = runs[0].grid(layer.query.shape[2])
        masks = [run.matching.masks(grid) for run in runs]
        named = torch.stack([run.named for run in runs])
        shares = winners(torch.stack([one.target for one in masks]), named)
        weights = shares.flatten(2)[:, :, None, :, None].to(layer.query.dtype)
        total = None
        for run, mask, share, weight in zip(runs, masks, shares, weights, strict=True):
            limited = Masks(mask.target * (share > 0), mask.reference)
            part = run.attend(layer, self._seen(layer), limited) * weight
            total = part if total is None else total + part
        assert total is not None
        if not named.any(dim=0).all():  # a target that names none of them stays as it is
            total = total + layer.plain() * (1 - weights.sum(dim=0))
        return total


def winners(masks: Tensor, named: Tensor) -> Tensor:
    """Which reference has the largest mask in each cell, among those whose concept is named.

    Args:
        masks: (K, B, H, W) in [0, 1].
        named: which target names whose concept, (K, B), bool.

    Returns:
        (K, B, H, W) shares: 1 for the winner and 0 for the others; equal ones share a cell; all 0
        for a target that names none.
    """
    known = named.to(masks.device)[:, :, None, None]
    rated = masks.masked_fill(~known, -1.0)
    won = (rated == rated.amax(dim=0)) & known
    return won / won.sum(dim=0).clamp_min(1)
