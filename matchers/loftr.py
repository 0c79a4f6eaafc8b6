"""LoFTR on the pictures: semi-dense matches by transformers, without keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from framework.interfaces import MATCHERS
from framework.options import option
from matchers.functional_sparse import SparseMatches, to_shares
from matchers.sparse import SparseConfig, SparseMatcher, from_kornia, kornia, seeded, with_weights

NAMES = ("outdoor", "indoor", "indoor_new")


@dataclass
class LoftrConfig(SparseConfig):
    """Options of :class:`Loftr`."""

    weights: str = option(
        "outdoor",
        "kornia's outdoor, indoor or indoor_new, fetched once; or a file of weights; or random",
    )


@MATCHERS.register("loftr")
class Loftr(SparseMatcher):
    """LoFTR (kornia) on the decoded predicted target and the reference picture.

    Its matches, one for each trusted 8-pixel cell at most, are spread over the grid. Confidence is
    LoFTR's own dual-softmax score of the nearest match, the probability that two 8-pixel cells
    match, which falls off with the distance to it (``sigma``); 0 far from all matches. It is
    trained on photographs of buildings and rooms. Cost: a VAE decode of each target and one pass of
    an 11 M network a pair, in every ``every``-th matched step.
    """

    Config = LoftrConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._network: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """The network, loaded when it is first needed."""
        if self._network is None:
            weights = self.config.weights
            if weights in NAMES:
                self._network = from_kornia(
                    lambda: kornia().feature.LoFTR(pretrained=weights), "matcher.weights", weights
                )
            else:
                plain = seeded(lambda: kornia().feature.LoFTR(pretrained=None))
                self._network = with_weights(plain, weights, "matcher.weights")
        return self._network

    def prepare(self) -> None:
        """See :meth:`framework.interfaces.BaseMatcher.prepare`."""
        _ = self.network

    def points(self, target: Tensor, reference: Tensor) -> SparseMatches:
        """See :meth:`matchers.sparse.SparseMatcher.points`."""
        network = self.network.to(target.device)
        grey = kornia().color.rgb_to_grayscale
        found = network({"image0": grey(target), "image1": grey(reference)})
        # Its pixel centres lie at (x + 0.5, y + 0.5).
        return SparseMatches(
            to_shares(found["keypoints0"] - 0.5, *target.shape[-2:]),
            to_shares(found["keypoints1"] - 0.5, *reference.shape[-2:]),
            found["confidence"].float().clamp(0, 1),
        )
