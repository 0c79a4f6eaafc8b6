"""No injection: the plain pipeline."""

from __future__ import annotations

from torch import Tensor

from framework.injectors.functional import attention
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs, Injector
from framework.types import Correspondence, Masks


@INJECTORS.register("none")
class NoInjection(Injector):
    """Plain self-attention: the personalized baseline."""

    uses = ()
    needs_correspondence = False
    injects = False

    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """See :meth:`framework.interfaces.Injector.attend`."""
        return attention(inputs.query, inputs.key, inputs.value, inputs.scale)
