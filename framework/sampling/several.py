"""Several concepts in one picture: each with its own reference, kept apart by their masks.

Every concept has its own parts, reference branch and session; the targets are evaluated once a
step. In a matched layer each concept's injector acts on the targets that name it, where its mask is
the largest of all; everywhere else the target is left as the others make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from framework.backbones.attention import NAMES, InjectingProcessor, replaced_processors
from framework.backbones.layers import self_attentions
from framework.concepts.text import fill_several, named_positions
from framework.config.sampler import SamplerConfig
from framework.errors import UserError
from framework.runs.progress import progress
from framework.sampling.cache import Cache
from framework.sampling.loop import Loop
from framework.sampling.plan import Parts, Plan
from framework.sampling.reference import ReferenceBranch, separable
from framework.sampling.sampler import Sampler
from framework.sampling.session import Session
from framework.sampling.trace import TraceOptions
from framework.types import Concept, Layout, Masks, StepTrace


class SeveralSampler(Sampler):
    """Draws pictures in which several concepts may appear.

    A prompt names a concept by ``{name}``, ``{0}``, ``{1}``, ... or its placeholder; ``{}`` is the
    first one. It names at least one of them.

    Args:
        pipe: a pipeline that carries all of them.
        concepts: the concepts, each with its own reference.
        parts: the parts of each; they are not shared, as they hold state while drawing.
        config: the loop's options.
        cache: where the reference branches' results are kept.

    Raises:
        UserError: see :class:`Sampler`; two concepts have one name or are written alike; or a part
            does not serve several concepts.
    """

    def __init__(
        self,
        pipe: Any,
        concepts: Sequence[Concept],
        parts: Sequence[Parts],
        config: SamplerConfig | None = None,
        cache: Cache | None = None,
    ) -> None:
        check_distinct(concepts)
        for each in parts:
            _check_parts(each)
        super().__init__(pipe, concepts[0], parts[0], config, cache)
        self.concepts = tuple(concepts)
        self.singles = [
            Sampler(pipe, concept, own, self.config, self.cache)
            for concept, own in zip(concepts, parts, strict=True)
        ]

    def fill(self, prompt: str) -> str:
        """Put the concepts into a prompt."""
        return fill_several(prompt, self.concepts)

    def positions(self, prompt: str) -> list[list[int]]:
        """Token positions of each concept in a filled prompt; none of those it does not name."""
        return named_positions(self.pipe, prompt, self.concepts)

    def _batch(
        self,
        prompts: list[str],
        noises: Tensor,
        steps: int,
        scale: float,
        trace: TraceOptions | None,
    ) -> tuple[Tensor, list[StepTrace]]:
        denoiser = self._denoiser(steps)
        plan = Plan(self.parts, len(denoiser.timesteps))
        if not plan.uses_reference:
            return super()._batch(prompts, noises, steps, scale, trace)
        halves = 2 if scale > 1 else 1
        layout = Layout(halves, 0, len(prompts))
        unet, size = self.model.unet, tuple(noises.shape[-2:])
        found = [self.positions(text) for text in prompts]
        named = torch.tensor(
            [[bool(each[k]) for each in found] * halves for k in range(len(self.concepts))]
        )
        references = [single.reference(steps) for single in self.singles]  # before anything looks
        with ExitStack() as stack:
            sessions, loops = [], []
            for k, single in enumerate(self.singles):
                parts = single.parts
                (own,) = named_positions(self.pipe, single._reference_prompt, [single.concept])
                session = Session(
                    Layout(halves, 1, len(prompts)),
                    size,  # type: ignore[arg-type]
                    parts.mask,
                    parts.matcher,
                    parts.injector,
                )
                stack.enter_context(parts.extractor.attach(unet))
                tokens = [each[k] for each in found]
                stack.enter_context(parts.mask.attach(unet, session.layout, size, tokens, own))  # type: ignore[arg-type]
                reference = references[k]
                conditions = single._conditions(prompts, halves)
                branch = ReferenceBranch(
                    denoiser,
                    parts,
                    Plan(parts, plan.steps),
                    session,
                    reference,
                    conditions[0],
                    list(self_attentions(unet, self._layers)),
                    self.cache,
                )
                sessions.append(session)
                loops.append(
                    Loop(
                        denoiser,
                        parts,
                        branch.plan,
                        session,
                        reference,
                        conditions,
                        layout,
                        scale,
                        branch,
                    )
                )
            layers = self_attentions(unet, self._layers)
            act = replaced_processors(
                layers, lambda name, old: SeveralProcessor(sessions, named, name)
            )
            stack.enter_context(act)
            return _run(loops, noises * denoiser.scheduler.init_noise_sigma, layout, trace)


class SeveralProcessor(InjectingProcessor):
    """Self-attention through several sessions' injectors, each where its mask is the largest.

    Args:
        sessions: one for each concept.
        named: which target rows name which concept, (K, B), bool.
        name: the layer's path.
    """

    def __init__(self, sessions: Sequence[Session], named: Tensor, name: str) -> None:
        super().__init__(sessions[0], name)
        self.sessions, self.named = list(sessions), named

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **rest: Any) -> Tensor:
        """As one session's where one evaluates its reference alone; else blended."""
        recording = next((one for one in self.sessions if one.record is not None), None)
        if recording is not None or not self.session.injecting:
            self.session = recording or self.sessions[0]
            try:
                return super().__call__(attn, hidden_states, *args, **rest)
            finally:
                self.session = self.sessions[0]
        return super().__call__(attn, hidden_states, *args, **rest)

    def attend(self, attn: Attention, target: Sequence[Tensor], positions: int) -> Tensor:
        """Every concept's output where it wins; see the class."""
        session = self.session
        grid, layout = session.grid(positions), session.layout
        masks = [one.masks(grid) for one in self.sessions]
        shares = winners(torch.stack([each.target for each in masks]), self.named)
        out = None
        for k, one in enumerate(self.sessions):
            reference = tuple(one.recalled(self.name, name) for name in NAMES)
            inputs = self.inputs(attn, target, reference, one, layout, positions)
            own = Masks(masks[k].target * (shares[k] > 0), masks[k].reference)
            result = one.attend(inputs, own)
            part = result * shares[k].flatten(1)[:, None, :, None].to(result.dtype)
            out = part if out is None else out + part
        assert out is not None
        return out


def winners(masks: Tensor, named: Tensor) -> Tensor:
    """Which concept has the largest mask in each cell, among those the target names.

    Args:
        masks: (K, B, H, W) in [0, 1].
        named: (K, B), bool; every target names at least one.

    Returns:
        (K, B, H, W) shares: 1 for the winner and 0 for the others; equal ones share a cell.
    """
    known = named.to(masks.device)[:, :, None, None]
    rated = masks.masked_fill(~known, -1.0)
    won = (rated == rated.amax(dim=0)) & known
    return won / won.sum(dim=0)


def _run(
    loops: list[Loop], latents: Tensor, layout: Layout, trace: TraceOptions | None
) -> tuple[Tensor, list[StepTrace]]:
    """The denoising loop; every step shows the targets to the U-Net once."""
    records = []
    first = loops[0]
    for index, timestep in enumerate(progress(first.denoiser.timesteps, "sampling")):
        latents, record = _step(loops, index, timestep, latents, layout, trace)
        if record is not None:
            records.append(record)
    return latents, records


@torch.no_grad()
def _step(
    loops: list[Loop],
    index: int,
    timestep: float,
    latents: Tensor,
    layout: Layout,
    trace: TraceOptions | None,
) -> tuple[Tensor, StepTrace | None]:
    first, scheduler = loops[0], loops[0].denoiser.scheduler
    plan, shown = first.plan, first.plan.shows_reference(index)
    moment = scheduler.timesteps[index]
    noisy = scheduler.scale_model_input(latents, moment)
    aparts: list[Any] = []
    for loop in loops:
        with _plain(loops, loop):
            apart = loop.branch.step(index) if shown and loop.branch is not None else None
            if shown and plan.looks_ahead(index):
                loop._look_ahead(index, timestep, layout, noisy, apart)
        aparts.append(apart)
    for loop, apart in zip(loops, aparts, strict=True):
        assert loop.session is not None
        loop.session.begin_step(layout, plan.injects(index))
        loop._recall(index, apart)
    rows = noisy.repeat(layout.halves, 1, 1, 1)
    _, output = first._evaluate(index, timestep, layout, rows)
    record = first._record(index, timestep, trace)
    if shown:
        for loop, apart in zip(loops, aparts, strict=True):
            noted = record if loop is first else None
            loop._look(index, timestep, layout, rows, output, apart.output, False, noted, trace)
    combined = first._combine(output)
    after = scheduler.step(combined, moment, latents, return_dict=False)[0]
    if record is not None:
        record.latents = after.cpu()
        record.target_clean = first.denoiser.clean(combined, noisy, timestep).cpu()
    return after, record


@contextmanager
def _plain(loops: list[Loop], active: Loop) -> Iterator[None]:
    """While it lasts no concept injects, and only the active one's masks look."""
    with ExitStack() as stack:
        for loop in loops:
            assert loop.session is not None
            if loop is active:
                stack.callback(setattr, loop.session, "injecting", loop.session.injecting)
                loop.session.injecting = False
            else:
                stack.enter_context(loop.session.plain())
        yield


def check_distinct(concepts: Sequence[Concept]) -> None:
    """Refuse concepts that a prompt could not tell apart.

    Raises:
        UserError: two have one name, or are written alike.
    """
    for what, values in (
        ("name", [concept.name for concept in concepts]),
        ("phrase", [concept.phrase for concept in concepts]),
    ):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(
                f"Two concepts have the {what} '{twice}'; give each its own, e.g. "
                "concepts: [{name: mug, ...}, {name: duck, ...}] with different placeholders."
            )


def _check_parts(parts: Parts) -> None:
    if not separable(parts):
        raise UserError(
            "Several concepts need parts that can look at each reference apart from the targets; "
            f"extractor '{parts.extractor.name}' or mask '{parts.mask.name}' cannot. Choose "
            "extractor=diffusion and mask=cross_attention."
        )
    if any(map(parts.guidance.active, range(1000))):
        raise UserError(
            f"Guidance '{parts.guidance.name}' follows one reference and does not serve several "
            "concepts; use guidance=none."
        )
