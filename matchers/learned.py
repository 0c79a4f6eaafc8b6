"""A small trained head over an extractor's descriptors, and the matcher that uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from framework.atomic import write_atomic
from framework.errors import UserError
from framework.geometry import cell_grid, cycle_error
from framework.interfaces import FeatureExtractor, Matcher
from framework.options import PartConfig, option
from framework.registry import MATCHERS
from framework.resources import resolve_path
from framework.typed import shown
from framework.types import Correspondence, Masks

#: Trained on the embedded world; see ``framework/matchbench/README.md``.
SHIPPED = "package:matchers/weights/embedded.safetensors"
KIND = "dreammatcher matching head"
ADVICE = (
    "Choose that extractor (for the shipped weights --config presets/learned), or train weights "
    "for this one with 'dreammatcher train-matcher'."
)


class MatchingHead(nn.Module):
    """Descriptors -> descriptors that match better, and how far their matches are to be trusted.

    A projection, then residual blocks that look at a neighbourhood of 5 x 5 cells each. Knows
    nothing of the timestep: one head serves every step.

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
        self.trust = nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 1))

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

    def logit(self, similarity: Tensor, peak: Tensor, cycle: Tensor) -> Tensor:
        """Logit of the probability that a match is right.

        Args:
            similarity: cosine similarity of the match, (...).
            peak: share of the softmax over the reference that lies about the match, (...).
            cycle: distance between a cell and where following the match there and back leads, as
                a share of the grid's longer side, (...).
        """
        distance = (cycle * 32).log1p()
        return self.trust(torch.stack([similarity, peak, distance], dim=-1))[..., 0]


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.look = nn.Conv2d(dim, dim, 5, groups=dim, padding=2, padding_mode="replicate")
        self.mix = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, hidden: Tensor) -> Tensor:
        seen = self.look(self.norm(hidden).movedim(-1, 1)).movedim(1, -1)
        return hidden + self.mix(seen)


def match_projected(
    head: MatchingHead, target: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Match descriptors that the head has already projected.

    Args:
        head: gives the softmax its sharpness.
        target: (B, H, W, d).
        reference: (B, H, W, d).

    Returns:
        flow (B, H, W, 2): to the mean, under the softmax, of the 3 x 3 cells about the most
        similar one; and the three arguments of :meth:`MatchingHead.logit`, (B, H, W) each.
    """
    _, height, width, _ = target.shape
    grid = cell_grid(height, width, target.device)
    found = [
        _one_pair(head.scale, one.flatten(0, 1), other.flatten(0, 1), grid)
        for one, other in zip(target, reference, strict=True)
    ]
    if not found:
        empty = target.new_zeros(target.shape[:3])
        return target.new_zeros(*target.shape[:3], 2), empty, empty, empty
    where, similarity, peak, reverse = (torch.stack(part) for part in zip(*found, strict=True))
    shape = (height, width)
    flow = where.unflatten(1, shape) - grid
    cycle = cycle_error(flow, reverse.unflatten(1, shape) - grid) / max(shape)
    return flow, similarity.unflatten(1, shape), peak.unflatten(1, shape), cycle


def _one_pair(
    scale: Tensor, target: Tensor, reference: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matches of N target cells among N reference cells of an (H, W) grid; (N, ...) each."""
    height, width = grid.shape[:2]
    similarity = target @ reference.T
    best, index = similarity.max(dim=-1)
    probability = (scale * similarity).softmax(dim=-1)
    offsets = torch.arange(-1, 2, device=grid.device)
    rows = (index // width)[:, None] + offsets.repeat_interleave(3)
    columns = (index % width)[:, None] + offsets.repeat(3)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    cells = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    weight = probability.gather(1, cells) * inside
    peak = weight.sum(dim=-1)
    near = torch.stack([columns, rows], dim=-1).float()
    where = (near * weight[..., None]).sum(dim=1) / peak[:, None].clamp_min(1e-12)
    back = similarity.argmax(dim=0)
    reverse = torch.stack([back % width, back // width], dim=-1).float()
    return where, best, peak, reverse


@dataclass
class LearnedConfig(PartConfig):
    """Options of :class:`Learned`."""

    weights: str = option(
        SHIPPED, "file written by 'dreammatcher train-matcher'; default: the embedded world's"
    )


@MATCHERS.register("learned")
class Learned(Matcher):
    """A small trained head over the descriptors: projection, then blocks that see the surroundings.

    Its descriptors must be of the kind it was trained on, raw channels and not a PCA, whose axes
    change from pair to pair (``presets/learned`` has the extractor for the shipped weights).
    Confidence is the calibrated probability that the match is right: that the point is visible in
    the reference and lies within a tenth of the object's box.
    """

    Config = LearnedConfig
    invariant = False  # it trusts only descriptors like those it was trained on

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._head, self._about = load_head(str(resolve_path(self.config.weights)))
        self.width = self._head.width
        self._moved: dict[torch.device, MatchingHead] = {}

    def check_extractor(self, extractor: FeatureExtractor, unet: object) -> None:
        """Refuse descriptors of another kind than those the weights were trained on."""
        trained = self._about.get("extractor")
        here = json.loads(json.dumps(extractor.signature(unet)))
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
            flow, similarity, peak, cycle = match_projected(head, ours, theirs)
            confidence = head.logit(similarity, peak, cycle).sigmoid()
        return Correspondence(flow=flow, confidence=confidence)

    def _check(self, descriptors: Tensor) -> None:
        if descriptors.shape[-1] != self.width:
            raise UserError(
                f"Matcher 'learned': the descriptors have {descriptors.shape[-1]} channels, and "
                f"the weights '{self.config.weights}' take {self.width}; they were trained with "
                f"the extractor {self._about['extractor']}. {ADVICE}"
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
