"""The denoising loop of one batch: reference branch and target branches through one U-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.backbones.attention import detached_attention
from framework.backbones.denoiser import Denoiser
from framework.backbones.model import Condition
from framework.backbones.schedule import from_eps, to_eps
from framework.interfaces import GuidanceInputs
from framework.interfaces.step import StepOutputs, make_views
from framework.runs.progress import progress
from framework.sampling.plan import Parts, Plan
from framework.sampling.reference import ReferenceBranch, ReferenceStep
from framework.sampling.session import Session
from framework.sampling.trace import TraceOptions
from framework.types import Layout, Reference, StepTrace, Views


class Loop:
    """The denoising loop of one batch.

    Args:
        denoiser: the model with its schedule.
        parts: the sampler's parts.
        plan: which of them act in which step.
        session: what attached layers share; None if nothing is attached.
        reference: the prepared reference, or None if no step shows it.
        conditions: text conditions of the reference (halves rows) and of the targets.
        layout: order of the rows with the reference taking part.
        scale: of classifier-free guidance.
        branch: evaluates the reference apart from the targets; None: both go through the U-Net
            together.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        parts: Parts,
        plan: Plan,
        session: Session | None,
        reference: Reference | None,
        conditions: tuple[Condition, Condition],
        layout: Layout,
        scale: float,
        branch: ReferenceBranch | None = None,
    ) -> None:
        self.denoiser, self.parts, self.plan = denoiser, parts, plan
        self.session, self.reference = session, reference
        self.reference_condition, self.target_condition = conditions
        self.layout, self.scale = layout, scale
        self.branch = branch
        self._viewed = 0

    def run(self, latents: Tensor, trace: TraceOptions | None) -> tuple[Tensor, list[StepTrace]]:
        """Denoise (N, C, h, w) start latents to clean ones; optionally record every step."""
        records: list[StepTrace] = []
        for index, timestep in enumerate(progress(self.denoiser.timesteps, "sampling")):
            latents, record = self._step(index, timestep, latents, trace)
            if record is not None:
                records.append(record)
        return latents, records

    def _step(
        self, index: int, timestep: float, latents: Tensor, trace: TraceOptions | None
    ) -> tuple[Tensor, StepTrace | None]:
        shown = self.session is not None and self.plan.shows_reference(index)
        guided = shown and self.plan.guides(index) and self.denoiser.alpha_bars[index] > 0
        scheduler = self.denoiser.scheduler
        moment = scheduler.timesteps[index]
        noisy = scheduler.scale_model_input(latents, moment)  # z_t, whatever scale it is kept in
        apart = self.branch.step(index) if shown and self.branch is not None else None
        layout = Layout(self.layout.halves, int(shown and apart is None), self.layout.targets)
        if shown and self.plan.looks_ahead(index):
            self._look_ahead(index, timestep, layout, noisy, apart)
        if self.session is not None:
            self.session.begin_step(layout, self.plan.injects(index))
            self._recall(index, apart)
        rows = noisy.repeat(layout.halves, 1, 1, 1)
        differentiable = guided and self.parts.guidance.needs_gradient
        with torch.set_grad_enabled(differentiable):
            if differentiable:
                rows = rows.detach().requires_grad_()
            with detached_attention(
                self.denoiser.model.unet, differentiable and self.parts.guidance.detach_attention
            ):
                output_reference, output = self._evaluate(index, timestep, layout, rows)
        record = self._record(index, timestep, trace)
        if shown:
            output = self._look(
                index,
                timestep,
                layout,
                rows,
                output,
                output_reference if apart is None else apart.output,
                guided,
                record,
                trace,
            )
        combined = self._combine(output.detach())
        after = scheduler.step(combined, moment, latents, return_dict=False)[0]
        if record is not None:
            record.latents = after.detach().cpu()
            clean = self.denoiser.clean(combined, noisy, timestep)
            record.target_clean = clean.cpu() if self._keeps(trace, "clean") else clean[:, :0].cpu()
        return after, record

    def _reference_rows(self, index: int) -> Tensor:
        """What the U-Net is shown of the reference, (halves, C, h, w)."""
        assert self.reference is not None
        return self.reference.trajectory[index].repeat(self.layout.halves, 1, 1, 1)

    def _evaluate(
        self, index: int, timestep: float, layout: Layout, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        reference = self._reference_rows(index) if layout.references else None
        return self._denoise(timestep, layout, reference, rows)

    def _recall(self, index: int, apart: ReferenceStep | None) -> None:
        """Hand what the reference left to those who need it while the targets are evaluated."""
        if apart is None or self.session is None:
            return
        self.session.memory = apart.attention
        if self.plan.captures(index) and self.parts.matcher.needs_features:
            self.parts.extractor.recall(apart.features)
        if self.plan.masks(index):
            self.parts.mask.recall(apart.masks)

    def _denoise(
        self, timestep: float, layout: Layout, reference_rows: Tensor | None, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One U-Net evaluation with the step's conditions: outputs of reference and targets."""
        condition = self.target_condition
        if layout.references:
            condition = Condition(
                layout.join(self.reference_condition.embeds, condition.embeds),
                {
                    name: layout.join(self.reference_condition.added[name], value)
                    for name, value in condition.added.items()
                },
            )
        joined = layout.join(reference_rows, rows)
        output = self.denoiser.model.denoise(joined, timestep, condition)
        return layout.split(output)

    def _look_ahead(
        self,
        index: int,
        timestep: float,
        layout: Layout,
        latents: Tensor,
        apart: ReferenceStep | None,
    ) -> None:
        """Evaluate the step without injection, for descriptors of its own."""
        assert self.session is not None
        rows = latents.repeat(layout.halves, 1, 1, 1)
        with torch.no_grad(), self.session.plain():
            self.session.layout = layout
            output_reference, output = self._evaluate(index, timestep, layout, rows)
            if apart is not None:
                self.parts.extractor.recall(apart.features)
                output_reference = apart.output
            clean = self.denoiser.clean
            self._describe(
                index,
                timestep,
                layout,
                clean(output, rows, timestep),
                clean(output_reference, self._reference_rows(index), timestep),
            )

    def _describe(
        self,
        index: int,
        timestep: float,
        layout: Layout,
        target_clean: Tensor,
        reference_clean: Tensor,
    ) -> None:
        """Make the descriptors and views the matcher works with, from the evaluation just done."""
        session, reference, matcher = self.session, self.reference, self.parts.matcher
        assert session is not None and reference is not None

        def evaluate(reference_rows: Tensor | None, rows: Tensor, time: float) -> None:
            with torch.no_grad(), session.plain():
                shown = Layout(layout.halves, int(reference_rows is not None), layout.targets)
                self._denoise(time, shown, reference_rows, rows)

        step = StepOutputs(
            index=index,
            timestep=timestep,
            layout=layout,
            reference=reference,
            target_clean=target_clean,
            reference_clean=reference_clean,
            decode=self.denoiser.model.decode,
            alpha_bar=self.denoiser.alpha_bar,
            evaluate=evaluate,
        )
        with torch.no_grad():
            if matcher.needs_features:
                session.features = self.parts.extractor(step)
            if matcher.needs_views or session.truth is not None:
                session.views = self._views(step, session.views)

    def _views(self, step: StepOutputs, old: Views | None) -> Views:
        """The pictures of a step, or still those of an earlier one if the matcher says so."""
        matcher = self.parts.matcher
        if not matcher.needs_views:
            return Views(truth=self.session.truth)  # type: ignore[union-attr]
        if old is not None and step.index - self._viewed < matcher.views_every:
            return old
        self._viewed = step.index
        return make_views(step, self.session.truth)  # type: ignore[union-attr]

    def _look(
        self,
        index: int,
        timestep: float,
        layout: Layout,
        rows: Tensor,
        output: Tensor,
        output_reference: Tensor,
        guided: bool,
        record: StepTrace | None,
        trace: TraceOptions | None,
    ) -> Tensor:
        """Extract features for the next step, guide this one, and note what was seen."""
        assert self.session is not None
        used = self.session.features
        reference_clean = self.denoiser.clean(
            output_reference.detach(), self._reference_rows(index), timestep
        )
        if record is not None:
            self._note(record, reference_clean, used, trace)
        if self.plan.describes(index):
            target_clean = self.denoiser.clean(output.detach(), rows.detach(), timestep)
            self._describe(index, timestep, layout, target_clean, reference_clean)
        return self._guide(timestep, rows, output) if guided else output

    def _guide(self, timestep: float, rows: Tensor, output: Tensor) -> Tensor:
        assert self.session is not None and self.reference is not None
        denoiser, grid = self.denoiser, tuple(rows.shape[-2:])
        abar, kind = denoiser.alpha_bar(timestep), denoiser.prediction_type
        with torch.no_grad():
            masks = self.session.masks(grid)  # type: ignore[arg-type]
            matches = self.session.match(grid, masks)  # type: ignore[arg-type]
        with torch.enable_grad():
            eps = self.parts.guidance(
                GuidanceInputs(
                    latents=rows,
                    eps=to_eps(output, rows, abar, kind),
                    alpha_bar=abar,
                    reference_clean=self.reference.latent.expand(len(rows), -1, -1, -1),
                    correspondence=matches,
                    masks=masks,
                    halves=self.layout.halves,
                )
            ).detach()
        return from_eps(eps, rows.detach(), abar, kind)

    def _combine(self, output: Tensor) -> Tensor:
        """Classifier-free guidance over the halves, (B, C, h, w) -> (N, C, h, w)."""
        if self.layout.halves == 1:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)

    def _record(self, index: int, timestep: float, trace: TraceOptions | None) -> StepTrace | None:
        last = self.plan.injects(index) and not self.plan.injects(index + 1)
        if trace is None or not trace.covers(index, last):
            return None
        nothing = torch.empty(0)
        return StepTrace(index, timestep, target_clean=nothing, latents=nothing)

    @staticmethod
    def _keeps(trace: TraceOptions | None, name: str) -> bool:
        return trace is not None and name in trace.kept

    def _note(
        self,
        record: StepTrace,
        reference_clean: Tensor,
        features: Any,
        trace: TraceOptions | None,
    ) -> None:
        session = self.session
        assert session is not None
        if self._keeps(trace, "clean"):
            record.reference_clean = reference_clean[-1:].cpu()
        record.matched = session.injecting
        if session.seen is not None:
            matches, masks = session.seen
            if self._keeps(trace, "matches"):
                record.flow, record.confidence = matches.flow.cpu(), matches.confidence.cpu()
            if self._keeps(trace, "masks"):
                record.masks = type(masks)(masks.target.cpu(), masks.reference.cpu())
            if features is not None and self._keeps(trace, "features"):
                record.features = type(features)(features.target.cpu(), features.reference.cpu())
