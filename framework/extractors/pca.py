"""Joint principal component analysis of two descriptor grids, exact and deterministic."""

from __future__ import annotations

import torch
from torch import Tensor


def joint_pca(target: Tensor, reference: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Project both grids on the principal components of their union, pair by pair.

    The components are eigenvectors of the channel covariance of all positions of both grids, after
    the common mean is subtracted. A ``dim`` of at least C keeps everything (a rotation).

    Args:
        target: (B, H, W, C).
        reference: (B, H', W', C).
        dim: number of components, at least 1.

    Returns:
        (B, H, W, k) and (B, H', W', k) with k = min(dim, C), float32.
    """
    x, y = target.flatten(1, 2).float(), reference.flatten(1, 2).float()
    both = torch.cat([x, y], dim=1)
    mean = both.mean(dim=1, keepdim=True)
    x, y = x - mean, y - mean
    k = min(dim, both.shape[-1])
    if k < both.shape[-1]:
        centred = both - mean
        covariance = centred.transpose(1, 2) @ centred / centred.shape[1]
        # One pair at a time: a batched decomposition may round differently with the batch's size.
        basis = torch.stack(
            [torch.linalg.eigh(c).eigenvectors[:, -k:].flip(-1) for c in covariance]
        )
        x, y = x @ basis, y @ basis
    return x.unflatten(1, target.shape[1:3]), y.unflatten(1, reference.shape[1:3])
