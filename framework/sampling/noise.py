"""Start noise of the targets: from seeds, from torch generators, or given."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError, check_range


def start_noise(
    count: int,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    latents: Tensor | None = None,
) -> Tensor:
    """Noise of unit variance, one row for each image, as diffusers would draw it.

    Args:
        count: number of prompts.
        shape: (C, h, w) of a latent.
        dtype: type it is drawn in (the same seed gives other noise in another type).
        seed: one seed for every image, or one each; default 0.
        generator: one generator drawn from once for all images, or one each.
        latents: (N, C, h, w) instead of either.

    Returns:
        (N, C, h, w); N is ``count``, or the length of what was given.

    Raises:
        UserError: more than one of the three is given, or one cannot be used.
    """
    options = {"seed": seed, "generator": generator, "latents": latents}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(
            f"Got {' and '.join(given)}; expected at most one of them. Drop the others."
        )
    if latents is not None:
        return _checked(latents, shape)
    if isinstance(generator, torch.Generator):
        return _draw(generator, (count, *shape), dtype)
    if generator is None:
        sources = [torch.Generator().manual_seed(value) for value in _seeds(seed, count)]
    else:
        sources = list(generator)
    if not sources or not all(isinstance(source, torch.Generator) for source in sources):
        raise UserError(
            f"generator is {generator!r}; expected a torch.Generator or a list of them, one for "
            "each image."
        )
    return torch.cat([_draw(source, (1, *shape), dtype) for source in sources])


def _draw(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    return noise.cpu()


def _seeds(seed: Any, count: int) -> list[int]:
    if seed is None or isinstance(seed, Integral):
        seeds = [0 if seed is None else seed] * count
    else:
        seeds = list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
    if not seeds or not all(isinstance(s, Integral) and not isinstance(s, bool) for s in seeds):
        raise UserError(
            f"seed is {seed!r}; expected an integer, or a list with one for each image."
        )
    for value in seeds:
        check_range("seed", value, 0, 2**63 - 1)
    return [int(value) for value in seeds]


def _checked(latents: Any, shape: tuple[int, int, int]) -> Tensor:
    got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
    if not isinstance(latents, Tensor) or latents.dim() != 4 or got[1:] != shape or not got[0]:
        raise UserError(
            f"latents are {got}; expected a tensor (N, {', '.join(map(str, shape))}): start noise "
            "of unit variance for the configured height and width."
        )
    return latents
