"""The sampler: one call draws images of a concept, or of several, with a set of parts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.backbones.choose import backbone_of
from framework.concepts.text import (
    check_distinguishable,
    check_prompts,
    concept_positions,
    fill_prompt,
    fill_several,
    named_positions,
)
from framework.config.sampler import SamplerConfig
from framework.errors import UserError, check_range
from framework.interfaces import Denoiser
from framework.interfaces.shapes import check_shape
from framework.sampling.cache import Cache, make_cache
from framework.sampling.call import Call, condition_of, find_loop
from framework.sampling.network import Network
from framework.sampling.noise import start_noise
from framework.sampling.plan import Parts, Plan
from framework.sampling.prepared import ConceptParts, check_guidance
from framework.sampling.reference import ReferenceRun
from framework.sampling.trace import Recorder, TraceOptions, merge_traces, trace_options
from framework.types import Concept, Layout, Reference, SamplerOutput, StepTrace

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class Sampler:
    """Draws images of a concept, or of several, with a pipeline and a set of parts.

    The pipeline is restored after every call, also after an exception; several samplers may share
    one pipeline. With several concepts a prompt names them by ``{name}``, ``{0}``, ``{1}``, ... or
    their placeholders, ``{}`` is the first one, and it names at least one; each injects from its
    own reference where its mask is the largest.

    Args:
        pipe: a diffusers pipeline of a supported family, carrying the personalized model.
        concept: the concept and its reference images, or several concepts.
        parts: the swappable parts; for several concepts each its own, as parts hold state while
            drawing.
        config: the loop's options.
        cache: where the references' results are kept; default: this process's memory.
        loop: the sampling loop; default: what ``config.loop`` names.

    Raises:
        UserError: the family or scheduler is not supported, the size is not a multiple of the
            model's step, a layer pattern matches nothing, the chosen layers do more than plain
            attention, the reference index is out of range, the loop is not there, two concepts
            cannot be told apart, or guidance would follow several references.

    Prepared references are kept for as long as the network's weights stay the same.
    """

    def __init__(
        self,
        pipe: Any,
        concept: Concept | Sequence[Concept],
        parts: Parts | Sequence[Parts],
        config: SamplerConfig | None = None,
        cache: Cache | None = None,
        loop: Callable[[Call], Tensor] | None = None,
    ) -> None:
        self.model = backbone_of(pipe)
        self.pipe = pipe
        self.concepts = (concept,) if isinstance(concept, Concept) else tuple(concept)
        every = (parts,) if isinstance(parts, Parts) else tuple(parts)
        self.concept, self.parts = self.concepts[0], every[0]
        check_distinguishable(self.concepts)
        self.config = config or SamplerConfig()
        self.cache = make_cache() if cache is None else cache
        self.loop = loop or find_loop(self.config.loop)
        self.subjects = [
            ConceptParts(self.model, one, own, self.config, self.cache)
            for one, own in zip(self.concepts, every, strict=True)
        ]
        check_guidance(self.subjects)
        denoiser = self._denoiser(self.config.num_inference_steps)
        for subject in self.subjects:
            subject.check(denoiser)

    # ---------------------------------------------------------------- public

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_trace: bool | Sequence[str] = False,
        trace_steps: Sequence[int] | None = None,
    ) -> SamplerOutput:
        """Draw one image for each prompt.

        Args:
            prompt: one prompt or several, with ``{}`` (or the placeholder) for the concept.
            seed: one seed for every image, or one each; with one prompt and several seeds the
                prompt is repeated. Default 0.
            generator: one torch generator, drawn from once for all images, or one each.
            latents: start noise (N, C, h, w) instead of either, of unit variance.
            num_inference_steps: T; default from the configuration.
            guidance_scale: classifier-free guidance; default from the configuration.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            return_trace: also return what each step saw: everything (with descriptors, which are
                large), or some of ``clean``, ``matches``, ``masks`` and ``features``; the targets'
                latents are always there. ``"last"``: everything of the last injected step.
            trace_steps: record these steps only.

        Raises:
            UserError: a value is out of range, or a prompt cannot be used.
        """
        _check_output_type(output_type)
        traced = trace_options(return_trace, trace_steps)
        steps = self._steps(num_inference_steps)
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        check_range("guidance_scale", scale, 0)
        if not math.isfinite(scale):
            raise UserError(f"guidance_scale is {scale}; expected a finite number.")
        prompts, noises = self._targets(prompt, seed, generator, latents)
        injector = self.parts.injector
        if injector.injects and steps <= injector.config.start_step:
            logger.warning(
                "%d steps end before injector.start_step (%d): nothing is injected.",
                steps,
                injector.config.start_step,
            )
        shown = [subject.check(self._denoiser(steps)) for subject in self.subjects]
        for text in prompts if any(shown) else ():
            self.positions(text)
        size = self.config.batch_size
        results, traces = [], []
        for start in range(0, len(prompts), size):
            end = start + size
            final, trace = self._batch(prompts[start:end], noises[start:end], steps, scale, traced)
            results.append(final)
            traces.append(trace)
        images = self.model.to_output(torch.cat(results), output_type)
        return SamplerOutput(images=images, trace=merge_traces(traces))

    def fill(self, prompt: str) -> str:
        """A prompt with the concept put in, or the concepts it names.

        Raises:
            UserError: the prompt mentions none.
        """
        if len(self.concepts) > 1:
            return fill_several(prompt, self.concepts)
        return fill_prompt(prompt, self.concept)

    def positions(self, prompt: str) -> list[list[int]]:
        """Where each concept's tokens stand in a filled prompt; empty for one it does not name.

        Raises:
            UserError: it names none.
        """
        if len(self.concepts) > 1:
            return named_positions(self.model, prompt, self.concepts)
        return [concept_positions(self.model, prompt, self.concept)]

    def evaluations(self, num_inference_steps: int | None = None) -> int:
        """T, the evaluations of an image; some schedulers take more than one a step."""
        return len(self.denoiser(num_inference_steps).timesteps)

    def matched_steps(self, num_inference_steps: int | None = None) -> list[int]:
        """Indices of the steps in which matches are used."""
        total = self.evaluations(num_inference_steps)
        return [step for step in range(total) if Plan(self.parts, total).matches(step)]

    def denoiser(self, num_inference_steps: int | None = None) -> Denoiser:
        """The model with the schedule of a number of steps; default from the configuration."""
        return self._denoiser(self._steps(num_inference_steps))

    def reference(self, num_inference_steps: int | None = None) -> Reference:
        """The first prepared reference for a number of steps; computed once and kept."""
        return self.subjects[0].references(self.denoiser(num_inference_steps))[0]

    # ---------------------------------------------------------------- inputs

    def _size(self) -> tuple[int, int]:
        side = self.model.image_size
        return self.config.height or side, self.config.width or side

    def _steps(self, given: int | None) -> int:
        steps = self.config.num_inference_steps if given is None else given
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise UserError(f"num_inference_steps is {steps!r}; expected an integer.")
        check_range("num_inference_steps", steps, 1, 1000)
        return steps

    def _denoiser(self, steps: int) -> Denoiser:
        config = self.config
        schedule = self.model.schedule(
            steps,
            self._size(),
            config.scheduler,
            config.timestep_spacing,
            config.scheduler_options,
        )
        return Denoiser(self.model, schedule, *self._size())

    def _targets(
        self,
        prompt: str | Sequence[str],
        seed: int | Sequence[int] | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
    ) -> tuple[list[str], Tensor]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if not prompts or not all(isinstance(text, str) for text in prompts):
            raise UserError(f"prompt is {prompt!r}; expected a text, or a list of at least one.")
        shape = (self.model.channels, *self.model.latent_size(*self._size()))
        noises = start_noise(len(prompts), shape, self.model.dtype, seed, generator, latents)
        if len(prompts) == 1:
            prompts = prompts * len(noises)
        if len(prompts) != len(noises):
            raise UserError(
                f"Got {len(prompts)} prompts but seeds or noise for {len(noises)} images; give one "
                "for each prompt, or a single prompt."
            )
        filled = [self.fill(text) for text in prompts]
        check_prompts(self.pipe, self.model.tokenizer, filled)
        return filled, noises.to(device=self.model.device, dtype=self.model.dtype)

    # ---------------------------------------------------------------- one batch

    def _batch(
        self,
        prompts: list[str],
        noises: Tensor,
        steps: int,
        scale: float,
        trace: TraceOptions | None,
    ) -> tuple[Tensor, list[StepTrace]]:
        denoiser = self._denoiser(steps)
        layout = Layout(2 if scale > 1 else 1, len(prompts))
        network = Network(
            self.model, condition_of(self.model, prompts, self._size(), layout.halves)
        )
        runs = self._runs(denoiser, network, prompts, layout)
        call = Call(denoiser, network, runs, noises, layout, scale, Recorder(trace))
        with torch.no_grad(), network.attached(runs):
            latents = self.loop(call)
        check_shape("The sampling loop's result", latents, tuple(noises.shape))
        return latents, call.trace.records

    def _runs(
        self, denoiser: Denoiser, network: Network, prompts: list[str], layout: Layout
    ) -> list[ReferenceRun]:
        """Every reference that takes part, prepared."""
        total = len(denoiser.timesteps)
        used = [Plan(subject.parts, total).uses_reference for subject in self.subjects]
        if not any(used):
            return []
        places, runs = [self.positions(text) for text in prompts], []
        for number, subject in enumerate(self.subjects):
            if not used[number]:
                continue
            for place, reference in enumerate(subject.references(denoiser)):
                runs.append(
                    ReferenceRun(
                        denoiser=denoiser,
                        network=network,
                        parts=subject.parts if place == 0 else subject.parts.twin(),
                        reference=reference,
                        condition=condition_of(
                            self.model, [subject.prompt(reference)], self._size(), layout.halves
                        ),
                        layout=layout,
                        latent_size=self.model.latent_size(denoiser.height, denoiser.width),
                        target_tokens=[place[number] for place in places],
                        reference_tokens=subject.positions(reference),
                        cache=self.cache,
                    )
                )
        return runs


def _check_output_type(given: str) -> None:
    if given not in OUTPUT_TYPES:
        raise UserError(f"output_type is '{given}'; expected one of {', '.join(OUTPUT_TYPES)}.")
