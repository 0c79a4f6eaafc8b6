"""Keys and values of the reference, both warped to the target."""

from __future__ import annotations

from torch import Tensor

from framework.injectors.functional import attention, blend, warp_tokens
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs, Injector
from framework.types import Correspondence, Masks


@INJECTORS.register("key_value_warp")
class KeyValueWarp(Injector):
    """Keys and values warped by the flow where mask and confidence trust it (the paper's ablation).

    As appearance matching, with M' = M^Y * U, but the keys are mixed too, so the target gives up
    part of its own structure.
    """

    uses = ("key", "value")

    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """See :meth:`framework.interfaces.Injector.attend`."""
        assert correspondence is not None
        weight = correspondence.confidence * masks.target
        flow = correspondence.flow
        key = blend(warp_tokens(inputs.reference_key, flow), inputs.key, weight)
        value = blend(warp_tokens(inputs.reference_value, flow), inputs.value, weight)
        return attention(inputs.query, key, value, inputs.scale)
