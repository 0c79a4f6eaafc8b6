"""Copy-paste check: was the reference pasted rather than the object drawn anew?

Image similarity rewards a pasted reference. Here the reference's subject, cut out by its mask, is
laid over the picture at every shift and a few sizes; at the best place the colours' correlation
and the agreement of the two masks are multiplied. A pasted subject gives about 1 wherever it was
put, the object in another view or pose much less.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from framework.metrics.similarity import MeanSimilarity
from framework.metrics.subject import subject_mask, to_tensor

SIDE = 48
REACH = 16
SCALES = (0.75, 0.87, 1.0, 1.15, 1.33)
OVERLAP = 0.6
FLAT = 1e-6


class Templates:
    """References cut out and resized, ready to be laid over pictures.

    Args:
        references: pairs of picture (3, S, S) in [0, 1] and mask (S, S) of 0 and 1.
        reach: largest shift in cells.
        scales: sizes each reference is tried at.
    """

    def __init__(
        self,
        references: Sequence[tuple[Tensor, Tensor]],
        reach: int = REACH,
        scales: Sequence[float] = SCALES,
    ) -> None:
        pairs = [_scaled(*each, scale) for each in references for scale in scales]
        pairs = [(picture, shape) for picture, shape in pairs if float(shape.sum()) > 0]
        self.reach = reach
        self.empty = not pairs
        if self.empty:
            return
        pictures = torch.stack([picture for picture, _ in pairs]).double()
        shapes = torch.stack([shape for _, shape in pairs]).double()[:, None]
        masked = pictures * shapes
        self.sums = shapes.sum(dim=(1, 2, 3))[:, None, None]  # (K, 1, 1)
        squared = (masked * pictures).sum(dim=1, keepdim=True)
        kernels = torch.cat([shapes, masked, masked.sum(dim=1, keepdim=True), squared], dim=1)
        self.size = shapes.shape[-1] + reach
        spectra = torch.fft.rfft2(kernels, (self.size,) * 2).conj()
        self.shape, self.masked, self.total, self.squared = spectra.split([1, 3, 1, 1], dim=1)

    def likeness(self, picture: Tensor, mask: Tensor) -> Tensor:
        """Correlation inside a template's mask times overlap of the masks.

        Args:
            picture: (3, S, S) in [0, 1].
            mask: its subject, (S, S) of 0 and 1.

        Returns:
            (K, 2 * reach + 1, 2 * reach + 1) in [0, 1]: every template at every shift.
        """
        image, own = picture.double(), mask.double()
        layers = torch.cat(
            [
                image,
                image.sum(dim=0, keepdim=True),
                image.square().sum(dim=0, keepdim=True),
                torch.ones_like(own)[None],
                own[None],
            ]
        )
        colours, total, squared, valid, subject = torch.fft.rfft2(layers, (self.size,) * 2).split(
            [3, 1, 1, 1, 1]
        )
        number = 3 * self._slide(valid * self.shape).clamp_min(1e-6)
        sum_t, sum_tt = self._slide(total * self.shape), self._slide(squared * self.shape)
        sum_r, sum_rr = self._slide(valid * self.total), self._slide(valid * self.squared)
        covariance = self._slide(colours * self.masked) - sum_r * sum_t / number
        spread_r = sum_rr - sum_r.square() / number
        spread_t = sum_tt - sum_t.square() / number
        flat = (spread_r < FLAT * number) | (spread_t < FLAT * number)
        correlation = covariance / (spread_r.clamp_min(1e-9) * spread_t.clamp_min(1e-9)).sqrt()
        correlation = torch.where(flat, 0.0, correlation).clamp(0, 1)
        shared = self._slide(subject * self.shape)
        union = number / 3 + own.sum() - shared
        enough = number / 3 >= OVERLAP * self.sums
        return correlation * (shared / union.clamp_min(1e-6)).clamp(0, 1) * enough

    def _slide(self, spectrum: Tensor) -> Tensor:
        """(K, C, ...) products of spectra -> sums over C at every shift within reach."""
        full = torch.fft.irfft2(spectrum.sum(dim=1), (self.size,) * 2)
        near = torch.arange(-self.reach, self.reach + 1) % self.size
        return full[:, near][:, :, near]


def copy_paste(picture: Tensor, mask: Tensor, templates: Templates) -> float:
    """Likeness of two subjects at the best shift, size and reference.

    Args:
        picture: (3, S, S) in [0, 1].
        mask: its subject, (S, S) of 0 and 1.
        templates: the references.

    Returns:
        In [0, 1]; 0 where there is no subject in either.
    """
    if templates.empty or float(mask.sum()) == 0:
        return 0.0
    return float(templates.likeness(picture, mask).max())


def _scaled(picture: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Picture and mask resized about the subject's middle, on the same grid."""
    side = mask.shape[-1]
    rows, columns = torch.nonzero(mask, as_tuple=True)
    middle = torch.stack([columns.float().mean(), rows.float().mean()])
    centre = (2 * middle + 1) / side - 1
    theta = torch.tensor([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]])
    theta[:, 2] = centre * (1 - 1 / scale)
    grid = functional.affine_grid(theta[None], [1, 4, side, side], align_corners=False)
    both = torch.cat([picture, mask[None]])[None]
    moved = functional.grid_sample(both, grid, mode="bilinear", align_corners=False)[0]
    return moved[:3], (moved[3] >= 0.5).float()


class CopyPaste(MeanSimilarity):
    """Mean over pictures of the highest :func:`copy_paste` with any of the references.

    Args:
        references: the concept's pictures.
        masks: their subjects' masks; None estimates them.
    """

    higher_is_better = False

    def __init__(
        self, references: Sequence[Image.Image], masks: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        given = masks or [subject_mask(image, SIDE) for image in references]
        self.templates = Templates(
            [
                (to_tensor(image, SIDE), _on_grid(mask))
                for image, mask in zip(references, given, strict=True)
            ]
        )

    def scores(
        self, images: Sequence[Image.Image], masks: Sequence[Tensor] | None = None
    ) -> Tensor:
        """One number in [0, 1] for each picture, (n,)."""
        given = masks or [subject_mask(image, SIDE) for image in images]
        found = []
        for image, mask in zip(images, given, strict=True):
            found.append(copy_paste(to_tensor(image, SIDE), _on_grid(mask), self.templates))
        return torch.tensor(found)

    def update(self, images: Sequence[Image.Image], masks: Sequence[Tensor] | None = None) -> None:
        """Add pictures."""
        self.accumulate(self.scores(images, masks))


def _on_grid(mask: Tensor) -> Tensor:
    if mask.shape == (SIDE, SIDE):
        return mask
    sized = functional.interpolate(mask[None, None], (SIDE, SIDE), mode="area")[0, 0]
    return (sized >= 0.5).float()
