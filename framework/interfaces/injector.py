"""Injector: queries, keys, values of both branches + correspondence -> the target's attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from framework.errors import UserError
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape
from framework.options import PartConfig, option
from framework.registry import Registry
from framework.types import Correspondence, Masks


@dataclass
class InjectorConfig(PartConfig):
    """Options every injector has: where and when it acts.

    The first step cannot be 0: a step is matched with the features of the one before it.
    """

    layers: list[str] = option(
        [r"up_blocks\.[123]\..*attn1"],
        "regular expressions; a self-attention layer is used if its module path matches one fully",
    )
    start_step: int = option(4, "first step (from 0, absolute) in which it acts", low=1)
    end_step: int | None = option(None, "step before which it stops; null: the last", low=1)
    confidence_threshold: float | None = option(
        None,
        "confidence from which on a match is trusted, fully, and below which not at all; null: "
        "every match counts as far as it is confident",
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layers = list(self.layers)
        if not self.layers:
            raise UserError("layers is empty; name at least one self-attention layer.")
        if self.end_step is not None and self.end_step <= self.start_step:
            raise UserError(
                f"end_step is {self.end_step}; expected more than start_step ({self.start_step})."
            )


#: What an injector may name in :attr:`Injector.uses`.
TENSORS = ("query", "key", "value", "output", "hidden_state", "cross_attention")


@dataclass(frozen=True)
class AttentionInputs:
    """What one self-attention layer knows, per pair.

    Attributes:
        query, key, value: of the targets, (B, heads, H * W, d).
        reference: what :attr:`Injector.uses` names of the reference, repeated beside each target:
            ``query``, ``key`` and ``value``, (B, heads, H * W, d); ``output``, what its own plain
            attention gives, likewise; ``hidden_state``, what the layer is given, (B, H * W, C);
            ``cross_attention``, the mean over heads of the map of the last cross-attention layer of
            this grid before it, (B, H * W, tokens), absent if there is none.
        grid: (H, W).
        scale: factor on the attention logits; None is 1 / sqrt(d).
        target: ``hidden_state`` and ``cross_attention`` of the targets, where ``uses`` names them.
        tokens: by ``target`` and ``reference`` for each pair where the concept's tokens stand in
            its prompt (the last axis of ``cross_attention``).
        layer: the layer's path.
        step: step index t, 0 at noise.
        signal, noise: the step's level, a and s in z = a z0 + s eps.
        matches: what layers before this one were matched with in this step, by path.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    reference: Mapping[str, Tensor]
    grid: tuple[int, int]
    scale: float | None = None
    target: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    layer: str = ""
    step: int = 0
    signal: float = 1.0
    noise: float = 0.0
    matches: Mapping[str, Correspondence] = field(default_factory=dict)

    @property
    def reference_query(self) -> Tensor:
        """``reference["query"]``."""
        return self.reference["query"]

    @property
    def reference_key(self) -> Tensor:
        """``reference["key"]``."""
        return self.reference["key"]

    @property
    def reference_value(self) -> Tensor:
        """``reference["value"]``."""
        return self.reference["value"]


class Injector(Part, ABC):
    """Decides what the target takes from the reference inside a self-attention layer.

    What a subclass declares:

    * :meth:`attend`, a pure function of tensors; ``framework.injectors.functional`` has
      :func:`attention`, :func:`warp_tokens` and :func:`blend`;
    * ``uses``, what it looks at of the reference, some of :data:`TENSORS`: the others are neither
      repeated nor cached;
    * ``needs_correspondence = False`` if it uses no matches (then no features are computed).

    One that uses matches leaves the target's plain attention, bit for bit, where the confidence is
    0 everywhere.
    """

    Config = InjectorConfig
    #: Which of the reference's tensors it looks at; it is given no others.
    uses: tuple[str, ...] = ("query", "key", "value")
    needs_correspondence: bool = True
    injects: bool = True

    @abstractmethod
    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """Attention output of the targets.

        Args:
            inputs: see :class:`AttentionInputs`.
            correspondence: flow (B, H, W, 2) and confidence (B, H, W) on this layer's grid; None
                if ``needs_correspondence`` is False.
            masks: soft foreground masks (B, H, W).

        Returns:
            (B, heads, H * W, d).
        """

    def __call__(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """Attend with the matches that are trusted, and check the output's shape.

        Raises:
            UserError: the shape is not that of the query.
        """
        output = self.attend(inputs, self._trusted(correspondence), masks)
        check_shape(f"{type(self).__name__}.attend", output, tuple(inputs.query.shape))
        return output

    def _trusted(self, correspondence: Correspondence | None) -> Correspondence | None:
        """The matches with a decision 0 / 1 as confidence, if a threshold is set."""
        threshold = getattr(self.config, "confidence_threshold", None)
        if correspondence is None or threshold is None:
            return correspondence
        confidence = correspondence.confidence
        trusted = (confidence >= threshold) & (confidence > 0)
        return Correspondence(correspondence.flow, trusted.to(confidence.dtype))


#: Every injector by its name.
INJECTORS = Registry(
    "injector",
    "framework.injectors",
    Injector,
    "attention of both + matches -> the target's attention",
)
