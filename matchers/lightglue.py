"""LightGlue on keypoints of the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framework.interfaces import MATCHERS
from framework.options import option
from matchers.functional_sparse import SparseMatches, to_shares
from matchers.sparse import (
    SparseConfig,
    SparseMatcher,
    from_kornia,
    kornia,
    seeded,
    with_weights,
)

DETECTORS = ("disk", "sift")
DISK_NAMES = ("depth", "epipolar")


@dataclass
class LightGlueConfig(SparseConfig):
    """Options of :class:`LightGlueMatcher`."""

    detector: str = option("disk", "keypoints and their descriptors", choices=DETECTORS)
    detector_weights: str = option(
        "depth", "of disk: kornia's depth or epipolar, fetched once; or a file; or random"
    )
    weights: str = option(
        "kornia",
        "of LightGlue: kornia (those for the detector, fetched once); or a file; or random; or "
        "none: mutual nearest descriptors with a ratio test, which needs no weights",
    )
    keypoints: int = option(512, "keypoints of each picture at most", low=8)
    ratio: float = option(
        0.9,
        "of the ratio test where weights is none: best distance by second best",
        low=0.1,
        high=1.0,
    )


def features() -> Any:
    """``kornia.feature``."""
    return kornia().feature


@dataclass(frozen=True)
class _Keypoints:
    """Points (n, 2) in pixels, descriptors (n, D), scales and orientations in radians (n,)."""

    points: Tensor
    descriptors: Tensor
    scales: Tensor
    angles: Tensor


@MATCHERS.register("lightglue")
class LightGlueMatcher(SparseMatcher):
    """LightGlue (kornia) on DISK or SIFT keypoints of the decoded target and the reference.

    Its matches are spread over the grid. Confidence is LightGlue's matching score of the nearest
    match, the probability that both points are matchable and each other's match, which falls off
    with the distance to it (``sigma``); with ``weights: none`` it is 1 less the ratio of the best
    distance to the second best. SIFT with ``none`` works without any trained weights. Cost: a VAE
    decode of each target and a pass of a 12 M network a pair, in every ``every``-th matched step.
    """

    Config = LightGlueConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._networks: tuple[nn.Module, nn.Module | None] | None = None

    @property
    def networks(self) -> tuple[nn.Module, nn.Module | None]:
        """Detector and LightGlue (None for plain nearest neighbours), loaded when first needed."""
        if self._networks is None:
            self._networks = self._detector(), self._matcher()
        return self._networks

    def prepare(self) -> None:
        """See :meth:`framework.interfaces.BaseMatcher.prepare`."""
        _ = self.networks

    def _detector(self) -> nn.Module:
        config = self.config
        if config.detector == "sift":
            return features().SIFTFeature(config.keypoints, descriptor_layout="opencv").eval()
        if config.detector_weights in DISK_NAMES:
            return from_kornia(
                lambda: features().DISK.from_pretrained(config.detector_weights),
                "matcher.detector_weights",
                config.detector_weights,
            )
        plain = seeded(features().DISK)
        return with_weights(plain, config.detector_weights, "matcher.detector_weights")

    def _matcher(self) -> nn.Module | None:
        weights, detector = self.config.weights, self.config.detector
        if weights == "none":
            return None
        if weights == "kornia":
            return from_kornia(lambda: features().LightGlue(detector), "matcher.weights", weights)
        form: dict[str, Any] = {
            **features().LightGlue.features[detector],
            "weights": None,
            "features": None,
        }
        plain = seeded(lambda: features().LightGlue(**form))
        return with_weights(plain, weights, "matcher.weights", _renamed)

    def points(self, target: Tensor, reference: Tensor) -> SparseMatches:
        """See :meth:`matchers.sparse.SparseMatcher.points`."""
        detector, matcher = self.networks
        detector.to(target.device)
        one, other = (self._keypoints(detector, picture) for picture in (target, reference))
        if min(len(one.points), len(other.points)) < 2:
            pairs, score = torch.empty(0, 2, dtype=torch.int64), torch.empty(0)
            pairs, score = pairs.to(target.device), score.to(target.device)
        elif matcher is None:
            distance, pairs = features().match_smnn(
                one.descriptors, other.descriptors, self.config.ratio
            )
            score = 1 - distance[:, 0]
        else:
            found = matcher.to(target.device)(
                {"image0": _named(one, target), "image1": _named(other, reference)}
            )
            pairs, score = found["matches"][0], found["scores"][0]
        return SparseMatches(
            to_shares(one.points[pairs[:, 0]], *target.shape[-2:]),
            to_shares(other.points[pairs[:, 1]], *reference.shape[-2:]),
            score.float().clamp(0, 1),
        )

    def _keypoints(self, detector: nn.Module, picture: Tensor) -> _Keypoints:
        if self.config.detector == "disk":
            (found,) = detector(picture, n=self.config.keypoints)
            points = found.keypoints
            zeros = points.new_zeros(len(points))
            return _Keypoints(points, found.descriptors, zeros, zeros)
        frames, responses, descriptors = detector(kornia().color.rgb_to_grayscale(picture))
        found = responses[0] > 0  # places it could not fill have none
        frames, descriptors = frames[:, found], descriptors[0, found]
        return _Keypoints(
            features().get_laf_center(frames)[0],
            descriptors,
            features().get_laf_scale(frames)[0].flatten(),
            features().get_laf_orientation(frames)[0].flatten().deg2rad(),
        )


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names in files as they are published -> kornia's."""
    names = {}
    for name in state:
        kind, _, rest = name.removeprefix("matcher.").partition(".")
        number, _, inner = rest.partition(".")
        if kind in ("self_attn", "cross_attn") and number.isdigit():
            names[name] = f"transformers.{number}.{kind}.{inner}"
        else:
            names[name] = name.removeprefix("matcher.")
    return {names[name]: value for name, value in state.items()}


def _named(found: _Keypoints, picture: Tensor) -> dict[str, Tensor]:
    """Keypoints of one picture as LightGlue takes them."""
    height, width = picture.shape[-2:]
    return {
        "keypoints": found.points[None],
        "descriptors": found.descriptors[None],
        "image_size": torch.tensor([[width, height]], device=picture.device),
        "scales": found.scales[None],
        "oris": found.angles[None],
    }
