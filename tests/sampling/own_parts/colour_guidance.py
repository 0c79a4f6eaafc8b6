"""A guidance that decodes, and knows the step."""

from __future__ import annotations

import torch

from framework import Guidance
from framework.interfaces.levels import clean_from_eps


class ColourGuidance(Guidance):
    """Pulls the mean colour of the predicted picture to the reference's, less and less."""

    needs_gradient = True

    def active(self, step):
        return step >= 1

    def correct(self, inputs):
        clean = clean_from_eps(inputs.eps, inputs.latents, inputs.level)
        pictures = inputs.decode(clean)
        wanted = inputs.reference.image.mean(dim=(2, 3))
        distance = (pictures.mean(dim=(2, 3)) - wanted).square().sum()
        (gradient,) = torch.autograd.grad(distance, inputs.latents)
        size = gradient.norm().clamp_min(1e-12)
        return inputs.eps.detach() + 8.0 / inputs.step * inputs.level.s * gradient / size
