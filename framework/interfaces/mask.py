"""MaskProvider: cross-attention (or given pictures) -> soft foreground masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from framework.interfaces.backbone import Backbone
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape, check_type
from framework.interfaces.step import StepContext
from framework.registry import Registry
from framework.runs.fingerprint import of_part
from framework.types import Layout, Masks


class MaskProvider(Part, ABC):
    """Says where the concept is, in the target and in the reference.

    What a subclass declares:

    * :meth:`masks`, called from inside an evaluation of the network by each matched layer;
    * optionally :meth:`begin_step`, which is told the step, the reference's picture, the prediction
      of the step before, its descriptors and its matches (a mask may be made of any of them);
    * optionally :meth:`attach`, a context manager around a sampling call.

    One made of cross-attention maps derives from
    :class:`framework.masks.attention_maps.AttentionMapMask`, which captures, remembers and recalls
    them; it declares how a mask is made of maps, and nothing else.

    The reference is evaluated apart from the targets, once for all of them, and what it left may
    come from a cache: a step has one evaluation of the reference, after which :meth:`remember` is
    called, and, after :meth:`begin_step` and :meth:`recall`, one of the targets.
    """

    #: How many earlier steps' descriptors :meth:`begin_step` is handed.
    history: int = 0

    def remember(self) -> dict[str, Tensor]:
        """What masks will need of the reference branch just evaluated, by name."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`remember` gave, perhaps long ago. Only in steps that use masks."""

    def memory_key(self) -> str:
        """Names what :meth:`remember` gives for one evaluation: equal keys, equal memory."""
        return of_part(self, private=False)

    def attach(
        self,
        backbone: Backbone,
        layout: Layout,
        latent_size: tuple[int, int],
        target_tokens: list[list[int]],
        reference_tokens: list[int],
    ) -> AbstractContextManager[None]:
        """Prepare for a sampling call; everything installed is gone on leaving.

        Args:
            backbone: the model; ``backbone.tapped`` shows the attention to the text.
            layout: order of the target rows.
            latent_size: (h, w) of the latents.
            target_tokens: for each of the N targets the positions of the concept's tokens.
            reference_tokens: those of the reference prompt.
        """
        return nullcontext()

    def begin_step(self, context: StepContext) -> None:
        """Forget what the previous evaluation left, and learn what is known of the step.

        Called before the reference is evaluated (``context.shows_reference``) and before the
        targets are.
        """

    def paused(self) -> AbstractContextManager[None]:
        """While it lasts an evaluation of the network leaves no trace in the masks."""
        return nullcontext()

    @property
    def version(self) -> int:
        """Changes whenever :meth:`masks` would return something else within a step."""
        return 0

    @abstractmethod
    def masks(self, height: int, width: int, pairs: int) -> Masks:
        """Masks for an attention grid.

        Args:
            height: rows H of the grid.
            width: columns W.
            pairs: B.

        Returns:
            target and reference mask, (B, H, W), float32 in [0, 1].
        """

    def __call__(self, height: int, width: int, pairs: int) -> Masks:
        """Return the masks, checked.

        Raises:
            UserError: a shape is not what the contract says.
        """
        result = self.masks(height, width, pairs)
        who = f"{type(self).__name__}.masks"
        check_type(who, result, Masks)
        check_shape(f"{who}: target", result.target, (pairs, height, width))
        check_shape(f"{who}: reference", result.reference, (pairs, height, width))
        return result


#: Every mask provider by its name.
MASKS = Registry(
    "mask",
    "framework.masks",
    MaskProvider,
    "where the concept is, in target and reference",
)
