"""A small trained head over an extractor's descriptors, and the matcher that uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from framework.config.resources import resolve_path
from framework.errors import UserError, shown
from framework.geometry import cell_grid, cycle_error
from framework.interfaces import MATCHERS, Backbone, FeatureExtractor, Matcher, Promises
from framework.options import PartConfig, option
from framework.runs.atomic import write_atomic
from framework.types import Correspondence, Masks
from matchers.functional import window

#: Trained on the embedded world; see ``framework/matchbench/README.md``.
SHIPPED = "package:matchers/weights/embedded.safetensors"
KIND = "dreammatcher matching head"
ADVICE = (
    "Choose that extractor (for the shipped weights --config presets/learned), or train weights "
    "for this one with 'dreammatcher train-matcher'."
)


#: What the confidence is made of, see :func:`match_projected`.
SIGNS = 10


class MatchingHead(nn.Module):
    """Descriptors -> descriptors that match better, and how far their matches are to be trusted.

    A projection, then residual blocks that look at a neighbourhood of 5 x 5 cells each. Before it
    is trained the blocks add nothing and the projection, see :meth:`start_from`, keeps the
    similarities as they are, so training begins with the matches of the descriptors themselves.

    Args:
        width: channels D of the descriptors that go in.
        dim: channels of those that come out.
        blocks: residual blocks.
    """

    def __init__(self, width: int, dim: int = 96, blocks: int = 3) -> None:
        super().__init__()
        self.width, self.dim = width, dim
        self.project = nn.Linear(width, dim)
        self.blocks = nn.ModuleList(_Block(dim) for _ in range(blocks))
        self.sharpness = nn.Parameter(torch.tensor(2.7))
        self.trust = nn.Sequential(nn.Linear(SIGNS, 16), nn.GELU(), nn.Linear(16, 1))

    def start_from(self, descriptors: Tensor) -> None:
        """Make the projection that onto the principal axes of some descriptors.

        Args:
            descriptors: (n, D), of many pictures.
        """
        rows = descriptors * self.width**0.5
        mean = rows.mean(dim=0)
        _, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))
        axes = axes[:, -self.dim :].flip(1)
        with torch.no_grad():
            self.project.weight[: axes.shape[1]] = axes.T
            self.project.bias[: axes.shape[1]] = -mean @ axes

    def forward(self, descriptors: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, W, d), L2-normalised."""
        hidden = self.project(descriptors * self.width**0.5)
        for block in self.blocks:
            hidden = block(hidden)
        return F.normalize(hidden, dim=-1)

    @property
    def scale(self) -> Tensor:
        """Factor on cosine similarities that makes them logits."""
        return self.sharpness.exp().clamp(max=100.0)

    def logit(self, signs: Tensor) -> Tensor:
        """Logit of the probability that a match is right, (...), from its signs (..., SIGNS)."""
        return self.trust(signs)[..., 0]


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.look = nn.Conv2d(dim, dim, 5, groups=dim, padding=2, padding_mode="replicate")
        self.mix = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        nn.init.zeros_(self.mix[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mix[-1].bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        seen = self.look(self.norm(hidden).movedim(-1, 1)).movedim(1, -1)
        return hidden + self.mix(seen)


def match_projected(head: MatchingHead, target: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Match descriptors that the head has already projected.

    Args:
        head: gives the softmax its sharpness.
        target: (B, H, W, d).
        reference: (B, H, W, d).

    Returns:
        flow (B, H, W, 2): to the mean, under the softmax, of the 3 x 3 cells about the most
        similar one; and the signs (B, H, W, SIGNS) of its being right: the similarity; the share of
        the softmax in those cells; how far following the match there and back leads astray, how
        far the whole softmax spreads about the match, and how much the flow differs from its
        surroundings', each as log(1 + distance) with the grid's longer side counted as 32; and the
        means of these five over 5 x 5 cells.
    """
    shape = target.shape[1:3]
    if not len(target):
        return target.new_zeros(0, *shape, 2), target.new_zeros(0, *shape, SIGNS)
    grid = cell_grid(shape[0], shape[1], target.device)
    found = [
        _one_pair(head.scale, one.flatten(0, 1), other.flatten(0, 1), grid)
        for one, other in zip(target, reference, strict=True)
    ]
    where, similarity, peak, spread, reverse = (
        torch.stack(part).unflatten(1, shape) for part in zip(*found, strict=True)
    )
    flow = where - grid
    distances = torch.stack(
        [
            cycle_error(flow, reverse - grid),
            spread,
            (flow - _around(flow.movedim(-1, 1)).movedim(1, -1)).norm(dim=-1),
        ],
        dim=1,
    )
    alike = torch.stack([similarity, peak], dim=1)
    signs = torch.cat([alike, (distances * 32 / max(shape)).log1p()], dim=1)
    return flow, torch.cat([signs, _around(signs)], dim=1).movedim(1, -1)


def _around(grids: Tensor) -> Tensor:
    """Mean of the 5 x 5 cells about each, those outside not counted; (B, C, H, W)."""
    return F.avg_pool2d(grids, 5, 1, 2, count_include_pad=False)


def _one_pair(
    scale: Tensor, target: Tensor, reference: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Matches of N target cells among N reference cells of an (H, W) grid; (N, ...) each."""
    height, width = grid.shape[:2]
    similarity = target @ reference.T
    best, index = similarity.max(dim=-1)
    probability = (scale * similarity).softmax(dim=-1)
    cells, near, inside = window(index, height, width, 1)
    weight = probability.gather(1, cells) * inside
    peak = weight.sum(dim=-1)
    where = (near * weight[..., None]).sum(dim=1) / peak[:, None].clamp_min(1e-12)
    places = grid.flatten(0, 1)
    moments = probability @ torch.cat([places, places.square().sum(-1, keepdim=True)], dim=-1)
    variance = moments[:, 2] + (where * (where - 2 * moments[:, :2])).sum(dim=-1)
    back = similarity.argmax(dim=0)
    reverse = torch.stack([back % width, back // width], dim=-1).float()
    return where, best, peak, variance.clamp_min(1e-6).sqrt(), reverse


@dataclass
class LearnedConfig(PartConfig):
    """Options of :class:`LearnedMatcher`."""

    weights: str = option(
        SHIPPED, "file written by 'dreammatcher train-matcher'; default: the embedded world's"
    )


@MATCHERS.register("learned")
class LearnedMatcher(Matcher):
    """A small trained head over the descriptors: projection, then blocks that see the surroundings.

    Its descriptors must be of the kind it was trained on, raw channels and not a PCA, whose axes
    change from pair to pair (``presets/learned`` has the extractor for the shipped weights).
    Confidence is the calibrated probability that the match is right: that the point is visible in
    the reference and lies within a tenth of the object's box.
    """

    Config = LearnedConfig
    promises = Promises(invariant=False)  # it trusts only descriptors like those it was trained on

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._head, self._about = load_head(str(resolve_path(self.config.weights)))
        self.needs = replace(self.needs, width=self._head.width)
        self._moved: dict[torch.device, MatchingHead] = {}

    def check_extractor(self, extractor: FeatureExtractor, backbone: Backbone) -> None:
        """Refuse descriptors of another kind than those the weights were trained on."""
        trained: dict[str, Any] = self._about.get("extractor") or {}
        here = json.loads(json.dumps(extractor.signature(backbone)))
        if here == trained:
            return
        keys = [key for key in {**trained, **here} if here.get(key) != trained.get(key)]
        told = "; ".join(
            f"{k} {shown(here.get(k))} instead of {shown(trained.get(k))}" for k in keys
        )
        raise UserError(
            f"Matcher 'learned': the weights '{self.config.weights}' were trained on other "
            f"descriptors than the extractor's: {told}. {ADVICE}"
        )

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        self._check(target)
        head = self._on(target.device)
        with torch.no_grad():
            ours, theirs = (_row_by_row(head, grid) for grid in (target, reference))
            flow, signs = match_projected(head, ours, theirs)
            confidence = head.logit(signs).sigmoid()
        return Correspondence(flow=flow, confidence=confidence)

    def _check(self, descriptors: Tensor) -> None:
        if descriptors.shape[-1] != self._head.width:
            raise UserError(
                f"Matcher 'learned': the descriptors have {descriptors.shape[-1]} channels, and "
                f"the weights '{self.config.weights}' take {self._head.width}; they were trained "
                f"with the extractor {self._about['extractor']}. {ADVICE}"
            )

    def _on(self, device: torch.device) -> MatchingHead:
        if device.type == "cpu":
            return self._head
        if device not in self._moved:
            head = MatchingHead(self._head.width, self._head.dim, len(self._head.blocks))
            head.load_state_dict(self._head.state_dict())
            self._moved[device] = head.to(device).eval()
        return self._moved[device]


def _row_by_row(head: MatchingHead, grids: Tensor) -> Tensor:
    """Each image alone, so that it does not depend on the batch; (B, H, W, D) -> (B, H, W, d)."""
    if not len(grids):
        return grids.new_zeros(*grids.shape[:3], head.dim)
    return torch.cat([head(grid[None]) for grid in grids])


def save_head(head: MatchingHead, path: Path, about: dict[str, Any]) -> Path:
    """Write a head with what it was trained on.

    Args:
        head: the head.
        path: a ``.safetensors`` file.
        about: plain values; ``extractor``: the signature of the one it was trained on.
    """
    from safetensors.torch import save

    shape = {"width": head.width, "dim": head.dim, "blocks": len(head.blocks)}
    metadata = {"kind": KIND, "shape": json.dumps(shape), "about": json.dumps(about)}
    tensors = {name: value.detach().cpu().float() for name, value in head.state_dict().items()}
    return write_atomic(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


@cache
def load_head(path: str) -> tuple[MatchingHead, dict[str, Any]]:
    """Read what :func:`save_head` wrote; shared, so it must not be changed.

    Raises:
        UserError: the file is missing, damaged, or something else.
    """
    if not Path(path).is_file():
        raise UserError(
            f"matcher.weights '{path}' does not exist; give a file that 'dreammatcher "
            "train-matcher' wrote."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"matcher.weights '{path}' cannot be read: {error}.") from error
    if metadata.get("kind") != KIND:
        raise UserError(
            f"matcher.weights '{path}' holds no matching head; give a file that 'dreammatcher "
            "train-matcher' wrote."
        )
    try:
        head = MatchingHead(**json.loads(metadata["shape"]))
        head.load_state_dict(tensors)
        about = json.loads(metadata["about"])
        about["extractor"]["name"]
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"matcher.weights '{path}' is damaged: {str(error)[:200]}") from error
    return head.eval().requires_grad_(False), about
