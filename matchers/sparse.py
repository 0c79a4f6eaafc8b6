"""What matchers of pictures by sparse points have in common."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from framework.config.resources import resolve_path
from framework.errors import UserError, first_line
from framework.interfaces import ImageMatcher, Promises
from framework.options import PartConfig, option
from framework.types import Correspondence, Masks, Views
from matchers.functional_sparse import SparseMatches, densify

#: Weights by this name are drawn at random: for tests, and to try the machinery offline.
RANDOM = "random"


@dataclass
class SparseConfig(PartConfig):
    """Options every matcher by sparse points has."""

    size: int | None = option(
        None, "shorter side at which it looks, in pixels; null: the picture's own", low=16
    )
    sigma: float = option(
        1.0, "reach of a match when it is spread over the grid, in cells", low=0.1
    )
    every: int = option(1, "pictures are decoded and matched anew in every so many steps", low=1)


class SparseMatcher(ImageMatcher):
    """Matches two pictures at points and spreads the matches over the grid.

    A subclass declares :meth:`points`. The points of one look are found once, whatever grids are
    asked for.
    """

    Config = SparseConfig
    promises = Promises(invariant=False)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.needs = replace(self.needs, every=self.config.every)
        self._found: WeakKeyDictionary[Views, list[SparseMatches]] = WeakKeyDictionary()

    @abstractmethod
    def points(self, target: Tensor, reference: Tensor) -> SparseMatches:
        """Match one pair of pictures, (1, 3, H, W) in [0, 1] each."""

    def match_views(self, views: Views, grid: tuple[int, int], masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.ImageMatcher.match_views`."""
        assert views.target is not None and views.reference is not None
        if views not in self._found:
            self._found[views] = self._look(views.target, views.reference)
        if not len(views.target):
            empty = masks.target.float()
            return Correspondence(empty[..., None].repeat(1, 1, 1, 2), empty)
        dense = [densify(found, *grid, self.config.sigma) for found in self._found[views]]
        return Correspondence(
            torch.cat([each.flow for each in dense]), torch.cat([each.confidence for each in dense])
        )

    @torch.no_grad()
    def _look(self, target: Tensor, reference: Tensor) -> list[SparseMatches]:
        """Matches of every pair; a pair of pictures that comes twice is matched once."""
        found: list[SparseMatches] = []
        for row, (one, other) in enumerate(zip(target, reference, strict=True)):
            same = (
                earlier
                for earlier in range(row)
                if torch.equal(target[earlier], one) and torch.equal(reference[earlier], other)
            )
            earlier = next(same, None)
            if earlier is None:
                found.append(self.points(self._sized(one[None]), self._sized(other[None])))
            else:
                found.append(found[earlier])
        return found

    def _sized(self, picture: Tensor) -> Tensor:
        """A picture in [0, 1] at the size looked at, in multiples of 16 pixels, at least 32."""
        height, width = picture.shape[-2:]
        factor = 1.0 if self.config.size is None else self.config.size / min(height, width)
        sides = [max(2, round(side * factor / 16)) * 16 for side in (height, width)]
        picture = (picture.float().clamp(-1, 1) + 1) / 2
        if sides == [height, width]:
            return picture
        return F.interpolate(
            picture, size=sides, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)


def read_weights(path: Path, key: str) -> dict[str, Any]:
    """A state dict from a file, without executing code of it.

    Raises:
        UserError: the file cannot be read that way.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many classes, all mean the same here
        raise UserError(
            f"{key} '{path}' cannot be read as weights alone: it is damaged, or holds more than "
            "tensors."
        ) from error


def with_weights(
    network: nn.Module, weights: str, key: str, rename: Callable[..., Any] = dict
) -> nn.Module:
    """A network of random weights, with those of a file.

    Args:
        network: the network.
        weights: a file, or :data:`RANDOM`.
        key: the option, for messages.
        rename: a state dict as the file has it -> as the network names it.

    Raises:
        UserError: the file is missing, damaged, or belongs to another network.
    """
    if weights == RANDOM:
        return network.eval()
    path = resolve_path(weights)
    if not path.is_file():
        raise UserError(f"{key} '{weights}' does not exist; expected a file of weights.")
    state = read_weights(path, key)
    for inner in ("state_dict", "extractor", "model"):
        if isinstance(state.get(inner), dict):
            state = state[inner]
    own = {name for name, _ in network.named_parameters()}
    try:
        result = network.load_state_dict(rename(state), strict=False)
        fits = not (result.unexpected_keys or own & set(result.missing_keys))
    except (RuntimeError, AttributeError):  # a size differs, or these are no tensors
        fits = False
    if not fits:
        raise UserError(
            f"{key} '{weights}' holds the weights of another network than {type(network).__name__}."
        )
    return network.eval()


def seeded(make: Any) -> Any:
    """Build a network whose random weights are the same every time; torch's generator is left."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def kornia() -> Any:
    """The library, imported when it is first needed: it is slow to import."""
    return importlib.import_module("kornia")


def from_kornia(make: Any, key: str, weights: str) -> nn.Module:
    """Build a network with kornia's own weights, which it fetches if they are not here yet.

    Raises:
        UserError: they are not here and cannot be had.
    """
    try:
        return make().eval()
    except Exception as error:
        raise UserError(
            f"{key} '{weights}' cannot be had: {first_line(error)}. Give a local file of them as "
            f"{key}."
        ) from error
