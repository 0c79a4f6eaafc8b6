"""What is measured: the configured pipeline, and a random one of Stable Diffusion 1.5's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from framework.backbones.dimensions import random_sd15
from framework.backbones.loading import load_pipeline
from framework.concepts.folders import load_concept
from framework.config.page import Config, load_config
from framework.types import Concept

MODELS = ("configured", "sd15")


@dataclass(frozen=True)
class Subject:
    """One model to measure.

    Attributes:
        name: how it is called in the table.
        pipe: the pipeline.
        concept: whose reference takes part.
        config: parts, steps and guidance scale.
    """

    name: str
    pipe: Any
    concept: Concept
    config: Config


def configured(config: Config) -> Subject:
    """The model a configuration describes; the concept is drawn by its class alone."""
    plain = _concept(config)
    name = "embedded" if config.model.path.startswith("package:") else config.model.path
    return Subject(name, load_pipeline(config.model), plain, config)


def sd15(config: Config, *, random: bool) -> Subject:
    """A checkpoint of Stable Diffusion 1.5's true dimensions, under the paper's preset.

    Args:
        config: names the concept.
        random: fill the weights with noise; False leaves them 0, which is enough for counting.
    """
    paper = load_config("presets/paper", ["model.path=sd15"])
    pipe = random_sd15(random)
    plain = _concept(config)
    return Subject("SD 1.5's dimensions", pipe, plain, paper)


def _concept(config: Config) -> Concept:
    """The configured concept, or one of the world's, without its placeholder."""
    given = config.concept
    if given.name is None and given.path is None:
        config = replace(config, concept=replace(given, name="taxi_car"))
    concept = load_concept(config)
    return Concept(concept.name, "", concept.class_name, concept.images, concept.sources)
