"""Warp the reference's attention output, not its values, to the target."""

from __future__ import annotations

from torch import Tensor

from framework.injectors.functional import attention, blend, warp_tokens
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs, Injector
from framework.types import Correspondence, Masks


@INJECTORS.register("output_blend")
class OutputBlend(Injector):
    """The reference's attention output, warped by the flow, where mask and confidence trust it.

    O_W = warp(O^X, F) * M' + O^Y * (1 - M') with M' = M^Y * U, O^X the reference's own
    self-attention output and O^Y the target's. Warped values are attended with the target's queries
    and keys, which averages over the cells that look alike, so that fine patterns are lost; an
    output has been averaged where the pattern still was. The matches decide more here: a wrong one
    shows.
    """

    uses = ("output",)

    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """See :meth:`framework.interfaces.Injector.attend`."""
        assert correspondence is not None
        own = attention(inputs.query, inputs.key, inputs.value, inputs.scale)
        warped = warp_tokens(inputs.reference["output"], correspondence.flow)
        return blend(warped, own, correspondence.confidence * masks.target)
