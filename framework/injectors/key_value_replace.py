"""Mutual self-attention: the target attends to the reference instead of itself."""

from __future__ import annotations

from torch import Tensor

from framework.injectors.functional import attention
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs, Injector
from framework.types import Correspondence, Masks


@INJECTORS.register("key_value_replace")
class KeyValueReplace(Injector):
    """Keys and values of the reference replace the target's (MasaCtrl, Cao et al., ICCV 2023)."""

    uses = ("key", "value")
    needs_correspondence = False

    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """See :meth:`framework.interfaces.Injector.attend`."""
        return attention(inputs.query, inputs.reference_key, inputs.reference_value, inputs.scale)
