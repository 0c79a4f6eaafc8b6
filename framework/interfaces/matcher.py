"""Matcher: descriptors of target and reference -> dense correspondence."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from framework.errors import UserError
from framework.interfaces.part import Part
from framework.shapes import check_shape
from framework.types import Correspondence, Features, Masks


class Matcher(Part, ABC):
    """Finds, for every cell of the target, the cell of the reference that shows the same thing.

    What a subclass declares:

    * :meth:`match`, a pure function of tensors: no state is kept between calls, no row of the
      batch influences another, the same input gives the same output on every run.
    * a flow in cells, ``(x, y)``, target to reference (see :mod:`framework.types`);
    * a confidence in [0, 1].

    Call the matcher itself (``matcher(features, masks)``): the call checks shapes and values.
    """

    @abstractmethod
    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """Match two descriptor grids.

        Args:
            target: psi^Y, (B, H, W, D), float32, L2-normalised.
            reference: psi^X, (B, H, W, D), likewise.
            masks: soft foreground masks, (B, H, W) each, in [0, 1]; all ones where no mask
                provider is in use.

        Returns:
            Flow (B, H, W, 2) and confidence (B, H, W).
        """

    def __call__(self, features: Features, masks: Masks) -> Correspondence:
        """Check the input, match, check the output.

        Raises:
            UserError: a shape or a value is not what the contract says.
        """
        shape = tuple(features.target.shape)
        who = type(self).__name__
        check_shape(f"{who}: reference descriptors", features.reference, shape)
        check_shape(f"{who}: target mask", masks.target, shape[:3])
        check_shape(f"{who}: reference mask", masks.reference, shape[:3])
        result = self.match(features.target, features.reference, masks)
        check_shape(f"{who}.match: flow", result.flow, (*shape[:3], 2))
        check_shape(f"{who}.match: confidence", result.confidence, shape[:3])
        valid = (result.confidence >= 0) & (result.confidence <= 1)
        if not bool((valid & result.flow.isfinite().all(dim=-1)).all()):
            raise UserError(
                f"{who}.match gave a flow that is not finite or a confidence outside [0, 1]; "
                "clamp the confidence, and give 0 where there is no match."
            )
        return result
