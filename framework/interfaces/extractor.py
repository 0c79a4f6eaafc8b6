"""FeatureExtractor: activations (or images) of both branches -> descriptors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from framework.interfaces.backbone import Backbone
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape, check_type
from framework.interfaces.step import StepOutputs
from framework.registry import Registry
from framework.runs.fingerprint import of_part
from framework.types import Features


class FeatureExtractor(Part, ABC):
    """Describes every cell of target and reference so that equal things have similar descriptors.

    What a subclass declares:

    * :meth:`describe`, called after the targets were evaluated; it may read the predicted clean
      latents and the reference, and decode them;
    * optionally :meth:`attach`, a context manager around a whole sampling call.

    One that reads activations of the network derives from
    :class:`framework.extractors.activations.ActivationExtractor`, which hooks, remembers and
    recalls; it declares how descriptors are made of activations, and nothing else.

    The reference is evaluated apart from the targets, once for all of them, and what it left may
    come from a cache: hooks of one's own see the reference's rows first, after which
    :meth:`remember` is called, and the targets' rows later, before :meth:`recall` and
    :meth:`describe`.

    The descriptors of one step serve the matching of the *next* step (the paper's choice), unless
    :attr:`current` is set, and guidance in the same step.
    """

    #: Whether a step is matched with its *own* descriptors. They exist only after an
    #: evaluation, so the sampler then evaluates the targets once without injection before every
    #: matched step (twice the work there). May be set by the constructor.
    current: bool = False

    #: Options that change no channel's meaning, see :meth:`signature`.
    unsigned: tuple[str, ...] = ()

    def remember(self) -> dict[str, Tensor]:
        """What :meth:`describe` will need of the reference branch just evaluated, by name."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`remember` gave, perhaps long ago; a description follows."""

    def memory_key(self) -> str:
        """Names what :meth:`remember` gives for one evaluation: equal keys, equal memory."""
        return of_part(self, private=False)

    def signature(self, backbone: Backbone) -> dict[str, Any]:
        """What its channels mean: what was learned over descriptors fits those of this signature.

        Default: its section of a configuration, without the options in :attr:`unsigned`.

        Args:
            backbone: the model it looks at.

        Returns:
            Plain values, as JSON has them.
        """
        section = self.section()
        return {key: value for key, value in section.items() if key not in self.unsigned}

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Install hooks for the duration of a sampling call. Default: nothing to install.

        Args:
            backbone: the model; ``backbone.modules`` finds modules of its network, and
                ``backbone.to_grid`` makes their outputs grids.
        """
        return nullcontext()

    @abstractmethod
    def describe(self, step: StepOutputs) -> Features:
        """Descriptors of the step just evaluated.

        Args:
            step: what the step produced, see :class:`framework.interfaces.step.StepOutputs`.

        Returns:
            target and reference descriptors, (B, H, W, D) each, float32, L2-normalised over D;
            the grid may be of any size, it is resized to each attention layer's grid.
        """

    def __call__(self, step: StepOutputs) -> Features:
        """Describe the step and check the result's shapes.

        Raises:
            UserError: a shape is not what the contract says.
        """
        features = self.describe(step)
        who = f"{type(self).__name__}.describe"
        check_type(who, features, Features)
        pairs = step.layout.halves * step.layout.targets
        check_shape(f"{who}: target", features.target, (pairs, None, None, None))
        check_shape(f"{who}: reference", features.reference, tuple(features.target.shape))
        return features


#: Every extractor by its name.
EXTRACTORS = Registry(
    "extractor",
    "framework.extractors",
    FeatureExtractor,
    "activations of target and reference -> descriptors",
)
