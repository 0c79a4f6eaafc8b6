"""An extractor that reads activations: how to describe, and nothing else."""

from __future__ import annotations

import torch

from framework import ActivationExtractor, Features


class DeepFeatures(ActivationExtractor):
    """What the second decoder block gives, normalised."""

    def modules(self):
        return [r"up_blocks\.1"]

    def describe_activations(self, target, reference, step):
        sides = []
        for side in (target, {name: step.layout.pair(rows) for name, rows in reference.items()}):
            (grid,) = side.values()
            sides.append(torch.nn.functional.normalize(grid.float().permute(0, 2, 3, 1), dim=-1))
        return Features(*sides)
