"""One sampling call: what the loop works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framework.errors import UserError
from framework.interfaces import Backbone, Condition, Denoiser
from framework.registry import import_plugin
from framework.runs.progress import progress
from framework.sampling.network import Network
from framework.sampling.plan import Step
from framework.sampling.reference import ReferenceRun
from framework.sampling.trace import Recorder
from framework.types import Layout


@dataclass(frozen=True)
class Call:
    """The targets of one call, their references, and the network all go through.

    Attributes:
        denoiser: the model with its schedule.
        network: the model with the references' parts attached; it knows the targets' prompts.
        runs: the references; none if nothing is injected or guided.
        noise: start noise of unit variance, (N, C, h, w).
        layout: order of the target rows.
        scale: of classifier-free guidance.
        trace: records what the steps saw.
    """

    denoiser: Denoiser
    network: Network
    runs: Sequence[ReferenceRun]
    noise: Tensor
    layout: Layout
    scale: float
    trace: Recorder

    def steps(self) -> Iterator[Step]:
        """The steps, noisiest first, behind a progress bar."""
        denoiser = self.denoiser
        for index, timestep in enumerate(progress(denoiser.timesteps, "sampling")):
            moment = denoiser.scheduler.timesteps[index]
            yield Step(index, timestep, moment, denoiser.levels[index])

    def rows(self, noisy: Tensor, step: Step) -> Tensor:
        """The rows of an evaluation: (N, C, h, w) latents once for each half, (B, C, h, w); they
        require grad in a step whose guidance needs the gradient."""
        rows = noisy.repeat(self.layout.halves, 1, 1, 1)
        return rows.detach().requires_grad_() if self._guidance(step) else rows

    def evaluate(self, rows: Tensor, step: Step) -> Tensor:
        """The network's prediction for the targets, (B, C, h, w); references are injected."""
        guidance = self._guidance(step)
        detached = any(run.parts.guidance.detach_attention for run in guidance)
        with torch.set_grad_enabled(bool(guidance)):
            return self.network.targets(rows, step.timestep, detached)

    @torch.no_grad()
    def evaluate_plain(self, rows: Tensor, step: Step) -> Tensor:
        """As :meth:`evaluate`, without injection; masks do not see it. (B, C, h, w)."""
        return self.network.plain(rows, step.timestep, self.network.condition)

    def _guidance(self, step: Step) -> list[ReferenceRun]:
        """References whose guidance needs the gradient in this step."""
        runs = [run for run in self.runs if run.guides(step)]
        return [run for run in runs if run.parts.guidance.needs_gradient]


def classifier_free(output: Tensor, scale: float, halves: int) -> Tensor:
    """Classifier-free guidance over the halves.

    Args:
        output: prediction of each half, (B, C, h, w), unconditional first.
        scale: 1 is the conditional prediction alone.
        halves: 2, or 1 for no guidance.

    Returns:
        (N, C, h, w).
    """
    if halves == 1:
        return output
    unconditional, conditional = output.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def condition_of(
    model: Backbone, prompts: Sequence[str], size: tuple[int, int], halves: int
) -> Condition:
    """Text condition of some prompts in each half, (halves * n) rows, unconditional first.

    Args:
        model: encodes them, each on its own.
        prompts: n texts.
        size: height and width of the picture in pixels.
        halves: 2, or 1 for no classifier-free guidance.
    """
    encoded = {text: model.encode_prompt(text, *size) for text in dict.fromkeys(prompts)}
    conditional = [encoded[text][0] for text in prompts]
    unconditional = [encoded[text][1] for text in prompts]
    return Condition.stack(unconditional + conditional if halves == 2 else conditional)


def find_loop(name: str) -> Callable[[Call], Tensor]:
    """The sampling loop a configuration names.

    Args:
        name: ``module:function``.

    Raises:
        UserError: there is no such function.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(
            f"sampler.loop is '{name}'; expected MODULE:FUNCTION, e.g. my_loop:denoise."
        )
    loop = getattr(import_plugin(module), function, None)
    if not callable(loop):
        raise UserError(
            f"sampler.loop: module '{module}' has no function '{function}'; expected one like "
            "framework.sampling.loop:denoise."
        )
    return loop
