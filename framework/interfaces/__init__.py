"""The abstract interfaces: one for each of the method's seven parts, each with its registry.

They are imported in the order of the data flow, in which the registries are listed.
"""
# ruff: noqa: I001

from framework.interfaces.part import Part
from framework.interfaces.levels import Level
from framework.interfaces.condition import Condition
from framework.interfaces.backbone import BACKBONES, Backbone
from framework.interfaces.denoiser import Denoiser
from framework.interfaces.step import StepContext, StepOutputs
from framework.interfaces.personalizer import PERSONALIZERS, Personalizer
from framework.interfaces.trajectory import TRAJECTORIES, ReferenceTrajectory, Trajectory
from framework.interfaces.extractor import EXTRACTORS, FeatureExtractor
from framework.interfaces.mask import MASKS, MaskProvider
from framework.interfaces.matcher import (
    MATCHERS,
    BaseMatcher,
    ImageMatcher,
    Matcher,
    Needs,
    Promises,
)
from framework.interfaces.injector import INJECTORS, AttentionInputs, Injector, InjectorConfig
from framework.interfaces.guidance import GUIDANCE, Guidance, GuidanceInputs

__all__ = [
    "BACKBONES",
    "EXTRACTORS",
    "GUIDANCE",
    "INJECTORS",
    "MASKS",
    "MATCHERS",
    "PERSONALIZERS",
    "TRAJECTORIES",
    "AttentionInputs",
    "BaseMatcher",
    "Backbone",
    "Condition",
    "Denoiser",
    "FeatureExtractor",
    "Guidance",
    "GuidanceInputs",
    "ImageMatcher",
    "Injector",
    "InjectorConfig",
    "Level",
    "MaskProvider",
    "Matcher",
    "Needs",
    "Part",
    "Personalizer",
    "Promises",
    "ReferenceTrajectory",
    "StepContext",
    "StepOutputs",
    "Trajectory",
]
