"""A group seen as the sampler would see it: noised to a step, through the network, described."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framework.backbones.choose import backbone_of
from framework.concepts.text import concept_positions, unknown_words
from framework.config.page import Config
from framework.errors import UserError
from framework.interfaces import Condition, Denoiser, FeatureExtractor, MaskProvider
from framework.interfaces.levels import noisy
from framework.interfaces.step import StepContext, StepOutputs
from framework.masks.none import NoMask
from framework.matchbench.folder import hash_of
from framework.matchbench.pairs import Group, Target
from framework.sampling.noise import start_noise
from framework.types import Concept, Features, Layout, Masks, Reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A group as latents.

    Attributes:
        group: what it was made of.
        reference: the reference and its trajectory.
        clean: z0 of the targets, (K, C, h, w).
        noise: of unit variance, (K, C, h, w).
        prompts: the reference's and the targets', as far as the model knows their words.
        class_name: the noun masks look for; empty: no masks.
    """

    group: Group
    reference: Reference
    clean: Tensor
    noise: Tensor
    prompts: tuple[str, ...]
    class_name: str


@dataclass(frozen=True)
class Look:
    """What one step shows of a group.

    Attributes:
        step: what the evaluation left behind; its layout has one half, the conditional.
        features: descriptors, (K, H, W, D).
        masks: on the latent's grid, (K, h, w).
        seconds: the extractor took.
        context: what matchers are told of the step.
    """

    step: StepOutputs
    features: Features
    masks: Masks
    seconds: float
    context: StepContext


class Observatory:
    """Shows groups of pictures to a model at the noise levels of its sampling steps.

    The reference follows the configured trajectory; a target is its clean latent noised to the
    step, which is what the sampler has when it is right. Only the conditional half is evaluated.

    Args:
        pipe: the pipeline; it is left as it was.
        config: model, sampler, trajectory and mask sections are used.

    Raises:
        UserError: the sampler's options do not suit the model.
    """

    def __init__(self, pipe: Any, config: Config) -> None:
        self.pipe, self.config = pipe, config
        self.model = backbone_of(pipe)
        side, sampler = self.model.image_size, config.sampler
        self.size = sampler.height or side, sampler.width or side
        self.grid = self.model.latent_size(*self.size)
        schedule = self.model.schedule(
            sampler.num_inference_steps,
            self.size,
            sampler.scheduler,
            sampler.timestep_spacing,
            sampler.scheduler_options,
        )
        self.denoiser = Denoiser(self.model, schedule, *self.size)
        self.trajectory = config.part("trajectory")
        self._told: set[str] = set()

    def prepare(self, group: Group, seed: int = 0) -> Prepared:
        """Encode a group's pictures and bring its reference to every step.

        Args:
            group: pictures of the size :attr:`size`.
            seed: of the noise; a target's depends on this and its place in the group alone.
        """
        model = self.model
        image = group.image.to(model.device)
        latent = model.encode_image(image)
        trajectory = self.trajectory(self.denoiser, latent)
        clean = torch.cat([model.encode_image(target.image) for target in group.targets])
        seeds = [hash_of(seed, place) for place in range(len(clean))]
        channels, height, width = clean.shape[1:]
        noise = start_noise(len(clean), (channels, height, width), clean.dtype, seeds).to(clean)
        prompts, noun = self._prompts(group)
        reference = Reference(image=image, latent=latent, trajectory=trajectory)
        return Prepared(group, reference, clean, noise, prompts, noun)

    def look(
        self, prepared: Prepared, extractor: FeatureExtractor, steps: Sequence[int]
    ) -> Iterator[Look]:
        """Evaluate the network at some steps and describe each.

        Args:
            prepared: see :meth:`prepare`.
            extractor: what describes; hooked to the network for as long as the iteration lasts.
            steps: indices of sampling steps, in rising order.
        """
        layout = Layout(1, len(prepared.clean))
        condition = self._condition(prepared.prompts)
        with ExitStack() as stack, torch.no_grad():
            mask = self._mask(prepared, layout, stack)
            stack.enter_context(extractor.attach(self.model))
            for index in steps:
                yield self._look(prepared, extractor, index, layout, condition, mask)

    def _look(
        self,
        prepared: Prepared,
        extractor: FeatureExtractor,
        index: int,
        layout: Layout,
        condition: Condition,
        mask: MaskProvider,
    ) -> Look:
        timestep, denoiser = self.denoiser.timesteps[index], self.denoiser
        level = denoiser.level(timestep)
        reference_rows = prepared.reference.trajectory[index]
        rows = noisy(prepared.clean, prepared.noise, level)
        own, others = condition.map(lambda rows: rows[:1]), condition.map(lambda rows: rows[1:])

        def evaluate(shown: Tensor, moment: float, of_reference: bool) -> None:
            with torch.no_grad(), mask.paused():
                self.model.denoise(shown, moment, own if of_reference else others)

        context = StepContext(
            index=index,
            steps=len(denoiser.timesteps),
            timestep=timestep,
            signal=level.a,
            noise=level.s,
            layout=layout,
            reference=prepared.reference,
        )
        mask.begin_step(replace(context, shows_reference=True))
        reference_output = self.model.denoise(reference_rows, timestep, own)
        activations, maps = extractor.remember(), mask.remember()
        mask.begin_step(context)
        mask.recall(maps)
        target_output = self.model.denoise(rows, timestep, others)
        step = StepOutputs(
            index=index,
            timestep=timestep,
            layout=layout,
            reference=prepared.reference,
            target_clean=denoiser.clean(target_output, rows, timestep),
            reference_clean=denoiser.clean(reference_output, reference_rows, timestep),
            decode=self.model.decode,
            level=denoiser.level,
            evaluate=evaluate,
        )
        masks = mask(*self.grid, len(rows))
        started = self.seconds()
        extractor.recall(activations)
        features = extractor(step)
        return Look(step, features, masks, self.seconds() - started, context)

    def seconds(self) -> float:
        """A clock: wall time once a GPU has done its work; on a CPU the processor's own time, which
        other programs do not disturb."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
            return time.perf_counter()
        return time.process_time()

    def _mask(self, prepared: Prepared, layout: Layout, stack: ExitStack) -> MaskProvider:
        """The configured mask provider; all ones where no noun is known."""
        mask: MaskProvider = NoMask()
        tokens: list[list[int]] = [[] for _ in prepared.prompts]
        if prepared.class_name:
            mask = self.config.part("mask")
            concept = Concept("", "", prepared.class_name, (None,))  # type: ignore[arg-type]
            tokens = [concept_positions(self.model, text, concept) for text in prepared.prompts]
        stack.enter_context(mask.attach(self.model, layout, self.grid, tokens[1:], tokens[0]))
        return mask

    def _condition(self, prompts: Sequence[str]) -> Condition:
        return Condition.stack([self.denoiser.condition(text) for text in prompts])

    def _prompts(self, group: Group) -> tuple[tuple[str, ...], str]:
        """Prompts with words the model knows; else empty ones, and no masks."""
        prompts = (group.prompt, *(target.prompt for target in group.targets))
        unknown = {word for text in prompts for word in unknown_words(self.model.tokenizer, text)}
        if not unknown:
            return prompts, group.class_name
        new = sorted(unknown - self._told)
        if new:
            logger.warning(
                "This model does not know %s: pictures described by it are shown with the empty "
                "prompt and without masks.",
                ", ".join(f"'{word}'" for word in new),
            )
            self._told.update(new)
        return ("",) * len(prompts), ""


def check_size(group: Group, size: tuple[int, int]) -> None:
    """Refuse pictures of another size than the model's.

    Raises:
        UserError: with both sizes.
    """
    pictures: list[Target | Group] = [group, *group.targets]
    for picture in pictures:
        if tuple(picture.image.shape[-2:]) != tuple(size):
            raise UserError(
                f"A picture of '{group.name}' has {tuple(picture.image.shape[-2:])} pixels; "
                f"expected {tuple(size)}."
            )
