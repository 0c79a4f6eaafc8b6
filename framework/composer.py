"""The composer: a configuration, or plain objects -> a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from framework.backbones.loading import load_pipeline
from framework.concepts.folders import load_concept
from framework.concepts.text import check_distinguishable
from framework.config.page import Config, load_config
from framework.config.resources import resolve_path
from framework.errors import UserError
from framework.sampling.cache import Cache, make_cache
from framework.sampling.plan import Parts
from framework.sampling.sampler import Sampler
from framework.training.personalize import personalizer_for, plug_in
from framework.types import Concept


def build_parts(config: Config) -> Parts:
    """Build the six parts of a sampler from their sections."""
    return Parts(
        trajectory=config.part("trajectory"),
        extractor=config.part("extractor"),
        mask=config.part("mask"),
        matcher=config.part("matcher"),
        injector=config.part("injector"),
        guidance=config.part("guidance"),
    )


def compose(
    config: str | Path | Mapping[str, Any] | DictConfig | Config | None = None,
    *,
    pipe: Any = None,
    concept: Concept | None = None,
    overrides: Sequence[str] = (),
) -> Sampler:
    """Assemble a sampler.

    Args:
        config: anything :func:`framework.config.page.load_config` takes; None is the default.
        pipe: a diffusers pipeline to use instead of loading ``model.path``, personalized or not.
        concept: a concept to use instead of loading ``concept``.
        overrides: ``key=value`` pairs.

    Returns:
        A :class:`Sampler`; ``sampler(prompt, seed=...)`` draws. With ``concepts`` in the
        configuration it draws all of them.

    Raises:
        UserError: whatever in the configuration cannot be used.
    """
    typed = load_config(config, overrides)
    if typed.concepts and concept is None:
        return _compose_several(typed, pipe)
    chosen = concept or load_concept(typed)
    model = pipe if pipe is not None else load_pipeline(typed.model)
    if typed.concept.weights is not None:
        plug_in(model, resolve_path(typed.concept.weights), chosen, typed)
    return make_sampler(model, chosen, typed, make_cache(typed.cache))


def make_sampler(
    pipe: Any,
    concept: Concept | Sequence[Concept],
    config: Config,
    cache: Cache | None = None,
    parts: Parts | None = None,
) -> Sampler:
    """A sampler over a pipeline that carries its concept, or several, already.

    Args:
        pipe: the pipeline.
        concept: the concept, or several, which then are drawn together.
        config: gives the parts and the sampler's options.
        cache: keeps the references' results; None as for a sampler that is told nothing.
        parts: ready parts of a single concept in place of the configured ones.
    """
    concepts = [concept] if isinstance(concept, Concept) else list(concept)
    own = [build_parts(config) for _ in concepts] if parts is None else [parts]
    return Sampler(pipe, concepts, own, config.sampler, cache)


def without_matching(config: Config) -> Config:
    """The same configuration without injection and guidance: the personalized model alone."""
    return replace(config, injector={"name": "none"}, guidance={"name": "none"})


def _compose_several(config: Config, pipe: Any) -> Sampler:
    """A sampler of several concepts, each with its own parts, reference and weights."""
    singles = [replace(config, concept=each, concepts=[]) for each in config.concepts]
    concepts = [load_concept(single) for single in singles]
    check_distinguishable(concepts)
    model = pipe if pipe is not None else load_pipeline(config.model)
    for place in _loading_order(singles, concepts):
        single = singles[place]
        plug_in(model, resolve_path(str(single.concept.weights)), concepts[place], single)
    return make_sampler(model, concepts, config, make_cache(config.cache))


def _loading_order(singles: Sequence[Config], concepts: Sequence[Concept]) -> list[int]:
    """Which concepts' weights are loaded one after another: what replaces, then what adds.

    Raises:
        UserError: more than one replaces the model's weights, so that one would undo the other.
    """
    given = [place for place, single in enumerate(singles) if single.concept.weights is not None]
    whole = {
        place: personalizer_for(resolve_path(str(singles[place].concept.weights)), singles[place])
        for place in given
    }
    replacing = [place for place in given if whole[place].replaces]
    if len(replacing) > 1:
        names = " and ".join(f"'{concepts[place].name}'" for place in replacing)
        raise UserError(
            f"The concepts {names} both bring weights in place of the model's own (DreamBooth, "
            "Custom Diffusion); one would undo the other. Have all but one of them as Textual "
            "Inversion or LoRA, which add up."
        )
    return replacing + [place for place in given if place not in replacing]
