"""A concept with its parts: its pictures brought to every step, and what can be refused early."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from framework.concepts.preprocess import prepare_image
from framework.concepts.text import SLOT, check_words, concept_positions, fill_prompt
from framework.config.sampler import SamplerConfig
from framework.errors import UserError
from framework.interfaces import Backbone, Denoiser, Trajectory
from framework.interfaces.layers import LayerCall
from framework.runs.fingerprint import combine, of_module, of_part
from framework.sampling.cache import Cache
from framework.sampling.plan import Parts, Plan
from framework.types import Concept, Layout, Reference


class ConceptParts:
    """One concept, the parts that serve it, and its references.

    Args:
        model: the model that draws.
        concept: the concept and its pictures.
        parts: its parts.
        config: the sampler's options.
        cache: where trajectories are kept.

    Raises:
        UserError: a picture is asked for that the concept has not, or the reference prompt cannot
            be used.
    """

    def __init__(
        self,
        model: Backbone,
        concept: Concept,
        parts: Parts,
        config: SamplerConfig,
        cache: Cache,
    ) -> None:
        self.model, self.concept, self.parts = model, concept, parts
        self.config, self.cache = config, cache
        count = len(concept.images)
        if config.reference_index >= count:
            raise UserError(
                f"reference_index is {config.reference_index}, but concept '{concept.name}' "
                f"has {count} image(s), numbered from 0."
            )
        self.pictures = tuple(parts.trajectory.pictures(count, config.reference_index))
        if not self.pictures or not all(0 <= picture < count for picture in self.pictures):
            raise UserError(
                f"{type(parts.trajectory).__name__}.pictures gave {list(self.pictures)}; expected "
                f"at least one number from 0 to {count - 1}, the pictures of '{concept.name}'."
            )
        check_words(model.tokenizer, self.prompt(None))
        self._key: Any = None
        self._kept: list[Reference] = []

    def prompt(self, reference: Reference | None) -> str:
        """The prompt that describes a reference: its own, or the configured one."""
        if reference is None or reference.prompt is None:
            return fill_prompt(self.config.reference_prompt, self.concept)
        return reference.prompt.replace(SLOT, self.concept.phrase)

    def positions(self, reference: Reference | None) -> list[int]:
        """Where the concept stands in the reference's prompt; nowhere if that does not name it."""
        prompt = self.prompt(reference)
        own = reference is not None and reference.prompt is not None
        if own and self.concept.phrase not in prompt:
            return []
        return concept_positions(self.model, prompt, self.concept)

    def references(self, denoiser: Denoiser) -> list[Reference]:
        """The prepared references for a schedule; kept while the network's weights stay."""
        times = tuple(denoiser.timesteps)
        key = (times, denoiser.height, denoiser.width, of_module(self.model.network))
        if key != self._key:
            self._kept = [self._prepared(denoiser, picture) for picture in self.pictures]
            self._key = key
        return self._kept

    def check(self, denoiser: Denoiser) -> bool:
        """Whether the references take part in a run; refuse now what could not be attached.

        Raises:
            UserError: a part does not suit the model or the others.
        """
        parts, matcher = self.parts, self.parts.matcher
        plan = Plan(parts, len(denoiser.timesteps))
        if any(plan.matches(step) or plan.guides(step) for step in range(plan.steps)):
            if matcher.needs.truth:
                raise UserError(
                    f"Matcher '{matcher.name}' needs the true correspondence, which is not "
                    "known while sampling; it serves dreammatcher match-bench. Choose another "
                    "matcher, e.g. matcher.name=cycle_argmax."
                )
            matcher.prepare()
            if matcher.needs.features:
                matcher.check_extractor(parts.extractor, self.model)
        if plan.uses_reference or parts.injector.injects:
            self._try_attaching(self.model.latent_size(denoiser.height, denoiser.width))
        return plan.uses_reference

    def _try_attaching(self, latent_size: tuple[int, int]) -> None:
        parts, model, tokens = self.parts, self.model, self.positions(None)
        layers = model.self_attentions(parts.injector.config.layers)
        with ExitStack() as stack:
            stack.enter_context(parts.extractor.attach(model))
            stack.enter_context(
                parts.mask.attach(model, Layout(1, 1), latent_size, [tokens], tokens)
            )
            stack.enter_context(model.attending(layers, LayerCall.plain))

    def _prepared(self, denoiser: Denoiser, picture: int) -> Reference:
        image = prepare_image(
            self.concept.images[picture], denoiser.height, denoiser.width, self.config.resize
        )
        clean = self.model.encode_image(image)
        found = self._trajectory(denoiser, clean)
        reference = Reference(image, clean, found.latents, found.embeds, found.prompt)
        check_words(self.model.tokenizer, self.prompt(reference))
        return reference

    def _trajectory(self, denoiser: Denoiser, clean: Tensor) -> Trajectory:
        """The reference's way through the steps, from the cache or made now."""
        part = self.parts.trajectory
        if not self.cache.enabled:
            return part.prepare(denoiser, clean)
        model = self.model
        key = combine(
            "trajectory",
            of_part(part),
            of_module(model.network),
            *map(of_module, model.text_encoders),
            model.dtype,
            model.device.type,
            dict(denoiser.scheduler.config),
            denoiser.timesteps,
            denoiser.levels,
            denoiser.final_level,
            (denoiser.height, denoiser.width),
            clean,
            denoiser.condition("").embeds,
        )
        found = self.cache.get(key)
        if found is not None and "latents" in found:
            return _from_tensors({name: tensor.to(clean.device) for name, tensor in found.items()})
        trajectory = part.prepare(denoiser, clean)
        self.cache.put(key, _to_tensors(trajectory))
        return trajectory


def check_guidance(subjects: Sequence[ConceptParts]) -> None:
    """Refuse guidance where there are several references to follow.

    Raises:
        UserError: a step would be guided.
    """
    if sum(len(subject.pictures) for subject in subjects) < 2:
        return
    for guidance in (subject.parts.guidance for subject in subjects):
        if any(map(guidance.active, range(1000))):
            raise UserError(
                f"Guidance '{guidance.name}' follows one reference and does not serve several; "
                "use guidance=none."
            )


def _to_tensors(trajectory: Trajectory) -> dict[str, Tensor]:
    """As a flat mapping, as caches keep it; a prompt as its bytes."""
    tensors = {"latents": trajectory.latents}
    tensors |= {f"embeds:{half}": embeds for half, embeds in trajectory.embeds.items()}
    if trajectory.prompt is not None:
        tensors["prompt"] = torch.tensor(list(trajectory.prompt.encode()), dtype=torch.uint8)
    return tensors


def _from_tensors(tensors: dict[str, Tensor]) -> Trajectory:
    prompt = tensors.get("prompt")
    return Trajectory(
        tensors["latents"],
        {n.partition(":")[2]: t for n, t in tensors.items() if n.startswith("embeds:")},
        None if prompt is None else bytes(prompt.tolist()).decode(),
    )
