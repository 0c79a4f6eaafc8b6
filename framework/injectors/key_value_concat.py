"""Shared attention: the target attends to itself and to the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.injectors.functional import attention
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs, Injector
from framework.types import Correspondence, Masks


@INJECTORS.register("key_value_concat")
class KeyValueConcat(Injector):
    """Attention over [target; reference], the reference's background masked out.

    The logits of a reference position get log(M^X) added, which weighs it by its soft mask; where
    M^X is 0 it takes no part.
    """

    uses = ("key", "value")
    needs_correspondence = False

    def attend(
        self, inputs: AttentionInputs, correspondence: Correspondence | None, masks: Masks
    ) -> Tensor:
        """See :meth:`framework.interfaces.Injector.attend`."""
        key = torch.cat([inputs.key, inputs.reference_key], dim=2)
        value = torch.cat([inputs.value, inputs.reference_value], dim=2)
        foreground = masks.reference.flatten(1)
        weight = torch.cat([torch.ones_like(foreground), foreground], dim=1)
        bias = weight.log().to(inputs.query.dtype)[:, None, None]
        bias = bias.expand(-1, 1, inputs.query.shape[2], -1)
        return attention(inputs.query, key, value, inputs.scale, bias)
