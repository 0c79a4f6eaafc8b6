"""The sampler: reference branch and target branches through one diffusers U-Net."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from framework.backbones.attention import injection
from framework.backbones.denoiser import Denoiser
from framework.backbones.layers import self_attentions
from framework.backbones.model import Condition, TextToImageModel
from framework.backbones.schedule import make_scheduler, timesteps_of
from framework.concepts.preprocess import prepare_image
from framework.concepts.text import check_words, concept_positions, fill, warn_cut
from framework.config.sampler import SamplerConfig
from framework.errors import UserError, check_range
from framework.runs.fingerprint import combine, of_module, of_part
from framework.sampling.cache import Cache, make_cache
from framework.sampling.loop import Loop
from framework.sampling.noise import start_noise
from framework.sampling.plan import Parts, Plan
from framework.sampling.reference import ReferenceBranch, separable
from framework.sampling.session import Session
from framework.sampling.trace import TraceOptions, merge_traces, trace_options
from framework.types import Concept, Layout, Reference, SamplerOutput, StepTrace

__all__ = ["Sampler", "SamplerConfig"]

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class Sampler:
    """Draws images of a concept with a pipeline and a set of parts.

    The pipeline is restored after every call, also after an exception; several samplers may share
    one pipeline.

    Args:
        pipe: a diffusers pipeline of a supported family, carrying the personalized model.
        concept: the concept and its reference images.
        parts: the swappable parts.
        config: the loop's options.
        cache: where the reference branch's results are kept; default: this process's memory.

    Raises:
        UserError: the family or scheduler is not supported, the size is not a multiple of the
            model's step, a layer pattern matches nothing, the chosen layers do more than plain
            attention, or the reference index is out of range.

    The prepared reference is kept for as long as the U-Net's weights stay the same.
    """

    def __init__(
        self,
        pipe: Any,
        concept: Concept,
        parts: Parts,
        config: SamplerConfig | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.model = TextToImageModel(pipe)
        self.pipe = pipe
        self.concept = concept
        self.parts = parts
        self.config = config or SamplerConfig()
        self.cache = make_cache() if cache is None else cache
        if self.config.reference_index >= len(concept.images):
            raise UserError(
                f"reference_index is {self.config.reference_index}, but concept '{concept.name}' "
                f"has {len(concept.images)} image(s), numbered from 0."
            )
        check_words(pipe.tokenizer, self._reference_prompt)
        self._denoiser(self.config.num_inference_steps)
        self._check_attachable(self.config.num_inference_steps)
        self._references: dict[tuple[Any, ...], Reference] = {}

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
        if output_type not in OUTPUT_TYPES:
            raise UserError(
                f"output_type is '{output_type}'; expected one of {', '.join(OUTPUT_TYPES)}."
            )
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
        if self._check_attachable(steps):
            for text in prompts:
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
        """A prompt with the concept put in.

        Raises:
            UserError: the prompt does not mention it.
        """
        return fill(prompt, self.concept)

    def positions(self, prompt: str) -> Any:
        """Where the concept's tokens stand in a filled prompt.

        Raises:
            UserError: they do not.
        """
        return concept_positions(self.pipe, prompt, self.concept)

    def evaluations(self, num_inference_steps: int | None = None) -> int:
        """T, the U-Net evaluations of an image; some schedulers take more than one a step."""
        return len(self._denoiser(self._steps(num_inference_steps)).timesteps)

    def matched_steps(self, num_inference_steps: int | None = None) -> list[int]:
        """Indices of the steps in which matches are used."""
        total = self.evaluations(num_inference_steps)
        return [step for step in range(total) if Plan(self.parts, total).matches(step)]

    def reference(self, num_inference_steps: int | None = None) -> Reference:
        """The prepared reference for a number of steps; computed once and kept."""
        steps = self._steps(num_inference_steps)
        height, width = self._size()
        denoiser = self._denoiser(steps)
        key = (steps, height, width, of_module(self.model.unet))
        if key not in self._references:
            image = prepare_image(
                self.concept.images[self.config.reference_index], height, width, self.config.resize
            )
            clean = self.model.encode_image(image)
            latents = self._trajectory(denoiser, clean)
            self._references = {key: Reference(image=image, latent=clean, trajectory=latents)}
        return self._references[key]

    def _trajectory(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """The reference's latents at every step, from the cache or made now."""
        if not self.cache.enabled:
            return self.parts.trajectory(denoiser, clean)
        encoders = (self.pipe.text_encoder, getattr(self.pipe, "text_encoder_2", None))
        key = combine(
            "trajectory",
            of_part(self.parts.trajectory),
            of_module(self.model.unet),
            *(of_module(encoder) for encoder in encoders if encoder is not None),
            self.model.dtype,
            self.model.device.type,
            dict(denoiser.scheduler.config),
            denoiser.timesteps,
            denoiser.alpha_bars,
            denoiser.final_alpha_bar,
            (denoiser.height, denoiser.width),
            clean,
            denoiser.condition("").embeds,
        )
        found = self.cache.get(key)
        if found is not None and "latents" in found:
            return found["latents"].to(clean)
        latents = self.parts.trajectory(denoiser, clean)
        self.cache.put(key, {"latents": latents})
        return latents

    # ---------------------------------------------------------------- inputs

    def _size(self) -> tuple[int, int]:
        side = self.model.image_size
        return self.config.height or side, self.config.width or side

    @property
    def _layers(self) -> list[str]:
        return self.parts.injector.config.layers

    @property
    def _reference_prompt(self) -> str:
        return fill(self.config.reference_prompt, self.concept)

    def _steps(self, given: int | None) -> int:
        steps = self.config.num_inference_steps if given is None else given
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise UserError(f"num_inference_steps is {steps!r}; expected an integer.")
        check_range("num_inference_steps", steps, 1, 1000)
        return steps

    def _check_attachable(self, steps: int) -> bool:
        """Whether the reference takes part in a run; refuse now what could not be attached."""
        latent_size = self.model.latent_size(*self._size())
        plan = Plan(self.parts, len(self._denoiser(steps).timesteps))
        matcher = self.parts.matcher
        matched = any(plan.matches(step) or plan.guides(step) for step in range(plan.steps))
        if matched and matcher.needs_truth:
            raise UserError(
                f"Matcher '{matcher.name}' needs the true correspondence, which is not "
                "known while sampling; it serves dreammatcher match-bench. Choose another matcher, "
                "e.g. matcher.name=cycle_argmax."
            )
        if matched:
            matcher.prepare()
            if matcher.needs_features:
                matcher.check_extractor(self.parts.extractor, self.model.unet)
        if plan.uses_reference or self.parts.injector.injects:
            with ExitStack() as stack:
                self._attach(stack, Layout(1, 1, 1), [self._reference_prompt], latent_size)
        return plan.uses_reference

    def _denoiser(self, steps: int) -> Denoiser:
        config = self.config
        scheduler = make_scheduler(
            config.scheduler,
            self.pipe.scheduler,
            config.timestep_spacing,
            config.scheduler_options,
        )
        timesteps = timesteps_of(scheduler, steps, self.model.device)
        return Denoiser(self.model, scheduler, timesteps, *self._size())

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
        shape = (
            int(self.model.unet.config.in_channels),
            *self.model.latent_size(*self._size()),
        )
        noises = start_noise(len(prompts), shape, self.model.dtype, seed, generator, latents)
        if len(prompts) == 1:
            prompts = prompts * len(noises)
        if len(prompts) != len(noises):
            raise UserError(
                f"Got {len(prompts)} prompts but seeds or noise for {len(noises)} images; give one "
                "for each prompt, or a single prompt."
            )
        filled = [self.fill(text) for text in prompts]
        for text in filled:
            check_words(self.pipe.tokenizer, text)
        warn_cut(self.pipe, filled)
        return filled, noises.to(device=self.model.device, dtype=self.model.dtype)

    def _conditions(self, prompts: list[str], halves: int) -> tuple[Condition, Condition]:
        """Conditions of the reference (halves rows) and of the targets (halves * N rows)."""
        reference_prompt = self._reference_prompt
        encoded = {
            text: self.model.encode_prompt(text, *self._size())
            for text in dict.fromkeys([reference_prompt, *prompts])
        }

        def rows(texts: list[str]) -> Condition:
            conditional = [encoded[text][0] for text in texts]
            unconditional = [encoded[text][1] for text in texts]
            return Condition.stack(unconditional + conditional if halves == 2 else conditional)

        return rows([reference_prompt]), rows(prompts)

    # ---------------------------------------------------------------- the loop

    def _batch(
        self,
        prompts: list[str],
        noises: Tensor,
        steps: int,
        scale: float,
        trace: TraceOptions | None,
    ) -> tuple[Tensor, list[StepTrace]]:
        denoiser = self._denoiser(steps)
        halves = 2 if scale > 1 else 1
        full = Layout(halves, 1, len(prompts))
        plan = Plan(self.parts, len(denoiser.timesteps))
        reference = self.reference(steps) if plan.uses_reference else None
        conditions = self._conditions(prompts, halves)
        with ExitStack() as stack:
            session = branch = None
            if reference is not None:
                session = self._attach(stack, full, prompts, noises.shape[-2:])
                if separable(self.parts):
                    layers = list(self_attentions(self.model.unet, self._layers))
                    branch = ReferenceBranch(
                        denoiser,
                        self.parts,
                        plan,
                        session,
                        reference,
                        conditions[0],
                        layers,
                        self.cache,
                    )
            loop = Loop(
                denoiser, self.parts, plan, session, reference, conditions, full, scale, branch
            )
            return loop.run(noises * denoiser.scheduler.init_noise_sigma, trace)

    def _attach(
        self, stack: ExitStack, layout: Layout, prompts: list[str], latent_size: tuple[int, int]
    ) -> Session:
        parts, unet = self.parts, self.model.unet
        positions = [concept_positions(self.pipe, text, self.concept) for text in prompts]
        own = concept_positions(self.pipe, self._reference_prompt, self.concept)
        session = Session(layout, tuple(latent_size), parts.mask, parts.matcher, parts.injector)  # type: ignore[arg-type]
        layers = self_attentions(unet, self._layers)
        stack.enter_context(parts.extractor.attach(unet))
        stack.enter_context(parts.mask.attach(unet, layout, session.latent_size, positions, own))
        stack.enter_context(injection(layers, session))
        return session
