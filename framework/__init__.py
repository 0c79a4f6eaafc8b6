"""DreamMatcher: text-to-image personalization by semantic matching, with swappable parts.

Everything the author of a part needs comes from here in one line::

    from framework import MATCHERS, Correspondence, Matcher, compose, warp

A name is looked up when it is first used, so importing the package alone loads nothing.

The data flow, one room after the other: concepts -> personalizers -> trajectories -> extractors ->
masks -> matchers -> injectors -> guidance -> sampler -> metrics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of _HOMES again, for editors and mypy
    from framework.composer import compose as compose
    from framework.config import Config as Config, load_config as load_config
    from framework.errors import UserError as UserError
    from framework.extractors.activations import ActivationExtractor as ActivationExtractor
    from framework.geometry import (
        cell_grid as cell_grid,
        cycle_error as cycle_error,
        resize_features as resize_features,
        resize_grid as resize_grid,
        resize_mask as resize_mask,
        warp as warp,
    )
    from framework.interfaces import (
        EXTRACTORS as EXTRACTORS,
        GUIDANCE as GUIDANCE,
        INJECTORS as INJECTORS,
        MASKS as MASKS,
        MATCHERS as MATCHERS,
        PERSONALIZERS as PERSONALIZERS,
        TRAJECTORIES as TRAJECTORIES,
        AttentionInputs as AttentionInputs,
        BaseMatcher as BaseMatcher,
        FeatureExtractor as FeatureExtractor,
        Guidance as Guidance,
        GuidanceInputs as GuidanceInputs,
        ImageMatcher as ImageMatcher,
        Injector as Injector,
        InjectorConfig as InjectorConfig,
        MaskProvider as MaskProvider,
        Matcher as Matcher,
        Needs as Needs,
        Part as Part,
        Personalizer as Personalizer,
        Promises as Promises,
        ReferenceTrajectory as ReferenceTrajectory,
        StepContext as StepContext,
        StepOutputs as StepOutputs,
        Trajectory as Trajectory,
    )
    from framework.masks.attention_maps import AttentionMapMask as AttentionMapMask
    from framework.options import PartConfig as PartConfig, option as option
    from framework.registry import REGISTRIES as REGISTRIES
    from framework.sampling.sampler import Sampler as Sampler
    from framework.types import (
        Concept as Concept,
        Correspondence as Correspondence,
        Features as Features,
        Layout as Layout,
        Masks as Masks,
        Reference as Reference,
        SamplerOutput as SamplerOutput,
        StepTrace as StepTrace,
        Views as Views,
    )

__version__ = "0.1.0"

#: Module -> the names that come from it.
_HOMES = {
    "composer": "compose",
    "config": "Config load_config",
    "errors": "UserError",
    "extractors.activations": "ActivationExtractor",
    "geometry": "cell_grid cycle_error resize_features resize_grid resize_mask warp",
    "interfaces": (
        "EXTRACTORS GUIDANCE INJECTORS MASKS MATCHERS PERSONALIZERS TRAJECTORIES AttentionInputs "
        "BaseMatcher FeatureExtractor Guidance GuidanceInputs ImageMatcher Injector InjectorConfig "
        "MaskProvider Matcher Needs Part Personalizer Promises ReferenceTrajectory StepContext "
        "StepOutputs Trajectory"
    ),
    "masks.attention_maps": "AttentionMapMask",
    "options": "PartConfig option",
    "registry": "REGISTRIES",
    "sampling.sampler": "Sampler",
    "types": "Concept Correspondence Features Layout Masks Reference SamplerOutput StepTrace Views",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
