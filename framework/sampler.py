"""The sampler: reference branch and target branches through one diffusers U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.attention import injection
from framework.denoiser import Denoiser
from framework.errors import UserError, check_range
from framework.layers import self_attentions
from framework.loop import Loop
from framework.model import Condition, TextToImageModel
from framework.options import PartConfig, option
from framework.parts import Parts, Plan
from framework.preprocess import RESIZE_MODES, prepare_image
from framework.schedule import make_scheduler, timesteps_of
from framework.session import Session
from framework.text import check_words, concept_positions, fill
from framework.trace import merge_traces
from framework.types import Concept, Layout, Reference, SamplerOutput, StepTrace

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class SamplerConfig(PartConfig):
    """Options of the sampling loop."""

    num_inference_steps: int = option(50, "denoising steps T", low=1, high=1000)
    guidance_scale: float = option(7.5, "classifier-free guidance; at most 1 turns it off", low=0.0)
    scheduler: str = option("DDIMScheduler", "diffusers scheduler class, or 'keep'")
    reference_prompt: str = option("a photo of a {}", "prompt of the reference branch")
    reference_index: int = option(0, "which of the concept's images is the reference", low=0)
    resize: str = option("crop", "how the reference is brought to size", choices=RESIZE_MODES)
    height: int | None = option(None, "image height in pixels; null: the model's own", low=8)
    width: int | None = option(None, "image width in pixels; null: the model's own", low=8)
    batch_size: int = option(8, "targets denoised together", low=1)


class Sampler:
    """Draws images of a concept with a pipeline and a set of parts.

    The pipeline is restored after every call, also after an exception; several samplers may share
    one pipeline.

    Args:
        pipe: a diffusers pipeline of a supported family, carrying the personalized model.
        concept: the concept and its reference images.
        parts: the swappable parts.
        config: the loop's options.

    Raises:
        UserError: the family or scheduler is not supported, a layer pattern matches nothing, or
            the reference index is out of range.
    """

    def __init__(
        self, pipe: Any, concept: Concept, parts: Parts, config: SamplerConfig | None = None
    ) -> None:
        self.model = TextToImageModel(pipe)
        self.pipe = pipe
        self.concept = concept
        self.parts = parts
        self.config = config or SamplerConfig()
        if self.config.reference_index >= len(concept.images):
            raise UserError(
                f"reference_index is {self.config.reference_index}, but concept '{concept.name}' "
                f"has {len(concept.images)} image(s), numbered from 0."
            )
        make_scheduler(self.config.scheduler, pipe.scheduler)
        if parts.injector.injects:
            self_attentions(self.model.unet, parts.injector.config.layers)
            with parts.extractor.attach(self.model.unet):
                pass
        self._references: dict[tuple[int, int, int], Reference] = {}

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
        return_trace: bool = False,
    ) -> SamplerOutput:
        """Draw one image for each prompt.

        Args:
            prompt: one prompt or several, with ``{}`` (or the placeholder) for the concept.
            seed: one seed, or one for each prompt; with one prompt and several seeds the prompt is
                repeated. Default 0.
            generator: like ``seed``, as torch generators, drawn from once an image in order.
            latents: start noise (N, C, h, w) instead of either, of unit variance.
            num_inference_steps: T; default from the configuration.
            guidance_scale: classifier-free guidance; default from the configuration.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            return_trace: also return what each step saw.

        Raises:
            UserError: a value is out of range, or a prompt cannot be used.
        """
        prompts, noises = self._targets(prompt, seed, generator, latents)
        steps = (
            self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        )
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        check_range("num_inference_steps", steps, 1, 1000)
        check_range("guidance_scale", scale, 0)
        if output_type not in OUTPUT_TYPES:
            raise UserError(
                f"output_type is '{output_type}'; expected one of {', '.join(OUTPUT_TYPES)}."
            )
        size = self.config.batch_size
        results, traces = [], []
        for start in range(0, len(prompts), size):
            end = start + size
            final, trace = self._batch(
                prompts[start:end], noises[start:end], steps, scale, return_trace
            )
            results.append(final)
            traces.append(trace)
        images = self.model.to_output(torch.cat(results), output_type)
        return SamplerOutput(images=images, trace=merge_traces(traces))

    def reference(self, num_inference_steps: int | None = None) -> Reference:
        """The prepared reference for a number of steps; computed once and kept."""
        steps = (
            self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        )
        height, width = self._size()
        key = (steps, height, width)
        if key not in self._references:
            image = prepare_image(
                self.concept.images[self.config.reference_index], height, width, self.config.resize
            )
            clean = self.model.encode_image(image)
            latents = self.parts.trajectory(self._denoiser(steps), clean)
            self._references[key] = Reference(image=image, latent=clean, trajectory=latents)
        return self._references[key]

    # ---------------------------------------------------------------- inputs

    def _size(self) -> tuple[int, int]:
        side = self.model.image_size
        return self.config.height or side, self.config.width or side

    def _denoiser(self, steps: int) -> Denoiser:
        scheduler = make_scheduler(self.config.scheduler, self.pipe.scheduler)
        timesteps = timesteps_of(scheduler, steps, self.model.device)
        return Denoiser(self.model, scheduler, timesteps, *self._size())

    def _targets(
        self,
        prompt: str | Sequence[str],
        seed: int | Sequence[int] | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
    ) -> tuple[list[str], Tensor]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise UserError("No prompt was given; give at least one.")
        given = [
            name
            for name, value in (("seed", seed), ("generator", generator), ("latents", latents))
            if value is not None
        ]
        if len(given) > 1:
            raise UserError(f"Give one of seed, generator and latents; got {' and '.join(given)}.")
        height, width = self.model.latent_size(*self._size())
        shape = (int(self.model.unet.config.in_channels), height, width)
        if latents is not None:
            if tuple(latents.shape[1:]) != shape:
                raise UserError(
                    f"latents have shape {tuple(latents.shape)}; expected (N, "
                    f"{', '.join(map(str, shape))})."
                )
            noises = latents
        else:
            sources = _generators(seed, generator, len(prompts))
            drawn = [
                torch.randn((1, *shape), generator=g, device=g.device, dtype=self.model.dtype).cpu()
                for g in sources
            ]
            noises = torch.cat(drawn)
        if len(prompts) == 1:
            prompts = prompts * len(noises)
        if len(prompts) != len(noises):
            raise UserError(f"Got {len(prompts)} prompts but noise for {len(noises)} images.")
        filled = [fill(text, self.concept) for text in prompts]
        for text in filled:
            check_words(self.pipe.tokenizer, text)
        return filled, noises.to(device=self.model.device, dtype=self.model.dtype)

    def _conditions(self, prompts: list[str], halves: int) -> tuple[Condition, Condition]:
        """Conditions of the reference (halves rows) and of the targets (halves * N rows)."""
        reference_prompt = fill(self.config.reference_prompt, self.concept)
        check_words(self.pipe.tokenizer, reference_prompt)
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
        self, prompts: list[str], noises: Tensor, steps: int, scale: float, trace: bool
    ) -> tuple[Tensor, list[StepTrace]]:
        denoiser = self._denoiser(steps)
        halves = 2 if scale > 1 else 1
        full = Layout(halves, 1, len(prompts))
        plan = Plan(self.parts, steps)
        reference = self.reference(steps) if plan.uses_reference else None
        conditions = self._conditions(prompts, halves)
        with ExitStack() as stack:
            session = None
            if reference is not None:
                session = self._attach(stack, full, prompts, noises.shape[-2:])
            loop = Loop(denoiser, self.parts, plan, session, reference, conditions, full, scale)
            return loop.run(noises * denoiser.scheduler.init_noise_sigma, trace)

    def _attach(
        self, stack: ExitStack, layout: Layout, prompts: list[str], latent_size: tuple[int, int]
    ) -> Session:
        parts, unet = self.parts, self.model.unet
        positions = [concept_positions(self.pipe, text, self.concept) for text in prompts]
        own = concept_positions(
            self.pipe, fill(self.config.reference_prompt, self.concept), self.concept
        )
        session = Session(layout, tuple(latent_size), parts.mask, parts.matcher, parts.injector)  # type: ignore[arg-type]
        layers = self_attentions(unet, parts.injector.config.layers)
        stack.enter_context(parts.extractor.attach(unet))
        stack.enter_context(parts.mask.attach(unet, layout, session.latent_size, positions, own))
        stack.enter_context(injection(layers, session))
        return session


def _generators(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    count: int,
) -> list[torch.Generator]:
    """One generator for each image; a single generator is drawn from repeatedly."""
    if generator is not None:
        if isinstance(generator, torch.Generator):
            return [generator] * count
        return list(generator)
    seeds = (
        [0 if seed is None else seed] * count
        if seed is None or isinstance(seed, int)
        else list(seed)
    )
    for value in seeds:
        check_range("seed", value, 0)
    return [torch.Generator().manual_seed(int(value)) for value in seeds]
