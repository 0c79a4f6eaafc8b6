"""Base of extractors that read activations of the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from framework.extractors.blocks import block_names, captured
from framework.interfaces import Backbone, FeatureExtractor
from framework.interfaces.step import StepOutputs
from framework.types import Features


class ActivationExtractor(FeatureExtractor):
    """Describes both branches by what chosen modules of the network give.

    What a subclass declares: :meth:`modules`, unless its option ``blocks`` names them, and
    :meth:`describe_activations`. Hooks, the reference's evaluation apart from the targets, and its
    cache are seen to here.
    """

    def modules(self) -> Sequence[str]:
        """Regular expressions on the paths of the modules that are read."""
        return self.config.blocks

    @abstractmethod
    def describe_activations(
        self, target: Mapping[str, Tensor], reference: Mapping[str, Tensor], step: StepOutputs
    ) -> Features:
        """Descriptors made of activations.

        Args:
            target: by module path, in the order of the network, (B, channels, h, w).
            reference: likewise, (halves, channels, h, w); ``step.layout.pair`` repeats them beside
                the targets.
            step: the step just evaluated.

        Returns:
            (B, H, W, D) each, float32, L2-normalised over D.
        """

    def signature(self, backbone: Backbone) -> dict[str, Any]:
        """The modules by name, however they are named; see the base class."""
        return super().signature(backbone) | {"blocks": block_names(backbone, self.modules())}

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:  # type: ignore[override]
        """Hook the modules; see the base class."""
        self._memory: dict[str, Tensor] = {}
        with captured(backbone, self.modules(), "extractor.blocks") as self._captured:
            yield
        self._memory = {}

    def remember(self) -> dict[str, Tensor]:
        """The reference's activations, (halves, channels, h, w), by module."""
        return dict(self._captured)

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See the base class."""
        self._memory = dict(memory)

    def memory_key(self) -> str:
        """See the base class."""
        return f"activations of {list(self.modules())}"

    def describe(self, step: StepOutputs) -> Features:
        """See :meth:`framework.interfaces.FeatureExtractor.describe`."""
        reference = {n: self._memory[n].to(rows.device) for n, rows in self._captured.items()}
        return self.describe_activations(self._captured, reference, step)
