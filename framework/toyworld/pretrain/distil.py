"""What the vision tower of CLIP learns from a convolutional teacher.

Its embedding follows the teacher's; and, through linear heads that are not kept, its patches after
an early and a late layer follow the teacher's feature maps. Targets at every patch teach far
faster than one target a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.toyworld.pretrain.teacher import Teacher


def standardised(maps: Tensor, side: int) -> Tensor:
    """Feature maps as targets of patches.

    Args:
        maps: (B, C, h, w).
        side: Patches in a row.

    Returns:
        float32 (B, side * side, C), of zero mean and unit variance in each channel.
    """
    cells = F.adaptive_avg_pool2d(maps.float(), side).flatten(2).transpose(1, 2)
    mean, std = cells.mean(dim=(0, 1)), cells.std(dim=(0, 1))
    return (cells - mean) / (std + 1e-3)


class Distillation(nn.Module):
    """Losses of a student against a frozen teacher.

    Args:
        teacher: The teacher.
        width: Of the student's patches.
        layers: Of the student; the hints are given after a third and two thirds of them.
    """

    def __init__(self, teacher: Teacher, width: int, layers: int) -> None:
        super().__init__()
        self.teacher = (teacher,)  # in a tuple: neither trained nor part of the checkpoint
        self.at = (max(1, layers // 3), max(1, 2 * layers // 3))
        self.hints = nn.ModuleList(nn.Linear(width, c) for c in teacher.channels[1:])

    def forward(
        self, pictures: Tensor, images: Tensor, hidden: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of the embedding (1 - cosine) and of the hints (squared error).

        Args:
            pictures: (B, 3, H, W) in about -1..1.
            images: The student's normalised embeddings, (B, projection).
            hidden: Its hidden states, input first, each (B, 1 + patches, width).
        """
        teacher = self.teacher[0].to(pictures.device)
        with torch.no_grad():
            embeddings, *maps = teacher(pictures)
        follow = (1.0 - (images * embeddings).sum(-1)).mean()
        hints = images.new_zeros(())
        for head, at, target in zip(self.hints, self.at, maps, strict=True):
            patches = head(hidden[at][:, 1:]).float()
            side = round(patches.shape[1] ** 0.5)
            hints = hints + F.mse_loss(patches, standardised(target, side))
        return follow, hints
