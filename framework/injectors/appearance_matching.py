"""Appearance matching self-attention (AMA): warp the reference's values to the target."""

from __future__ import annotations

from torch import Tensor

from framework.injectors.functional import attention, blend, warp_tokens
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs, Injector
from framework.types import Correspondence, Masks


@INJECTORS.register("appearance_matching")
class AppearanceMatching(Injector):
    """Reference values, warped by the flow, where mask and confidence trust it (Eqs. 3-5, 8).

    V_W = warp(V^X, F) * M' + V^Y * (1 - M') with M' = M^Y * U; queries and keys stay the target's.
    """

    uses = ("value",)

    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """See :meth:`framework.interfaces.Injector.attend`."""
        assert correspondence is not None
        weight = correspondence.confidence * masks.target
        warped = warp_tokens(inputs.reference_value, correspondence.flow)
        value = blend(warped, inputs.value, weight)
        return attention(inputs.query, inputs.key, value, inputs.scale)
