"""No mask: everything counts as foreground."""

from __future__ import annotations

import torch

from framework.interfaces import MASKS, MaskProvider
from framework.types import Masks


@MASKS.register("none")
class NoMask(MaskProvider):
    """All ones: every cell counts as foreground."""

    def attach(self, backbone, layout, latent_size, target_tokens, reference_tokens):  # type: ignore[no-untyped-def]
        """Remember the device only."""
        self._device = backbone.device
        return super().attach(backbone, layout, latent_size, target_tokens, reference_tokens)

    def masks(self, height: int, width: int, pairs: int) -> Masks:
        """See :meth:`framework.interfaces.MaskProvider.masks`."""
        ones = torch.ones(pairs, height, width, device=self._device)
        return Masks(target=ones, reference=ones)
