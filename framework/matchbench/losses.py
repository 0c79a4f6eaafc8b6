"""How far a matching head is from the truth: losses of its matches and of its confidence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.matchbench.lessons import Lesson
from framework.matchbench.measures import at_points, predicted_points, right_points
from matchers.learned import MatchingHead, match_projected

#: Width, in cells, of the target distribution about the true match.
SPREAD = 0.7


def lesson_losses(
    head: MatchingHead, lesson: Lesson, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of one lesson.

    Args:
        head: the head.
        lesson: the lesson.
        size: (height, width) of the pictures in pixels.

    Returns:
        Loss of the matches, loss of the confidence, and the share of right ones; scalars.
    """
    shared = all(torch.equal(lesson.reference[0], row) for row in lesson.reference[1:])
    targets = head(lesson.target)
    references = head(lesson.reference[:1] if shared else lesson.reference)
    references = references.expand_as(targets)
    with torch.no_grad():
        flow, signs = match_projected(head, targets, references)
    losses, logits, labels, right = [], [], [], []
    for row, target in enumerate(lesson.targets):
        here, there = (to_cells(p, targets, size) for p in (target.points, target.truth))
        seen = target.visible.to(here.device)
        if seen.any():
            one, other = targets[row], references[row]
            losses.append(matching_loss(head, one, other, here[seen], there[seen]))
            losses.append(matching_loss(head, other, one, there[seen], here[seen]))
        predicted = predicted_points(flow[row].cpu(), target.points, size)
        known = target.truth, target.visible, target.box, torch.tensor(target.scale)
        good = right_points(predicted, *known).to(here.device)
        places = target.points.to(here.device)
        logits.append(head.logit(at_points(signs[row], places, size)))
        labels.append(good.float())
        right.append(good[seen].float())
    nothing = targets.sum() * 0
    found = torch.stack(losses).mean() if losses else nothing
    logit, label = torch.cat(logits), torch.cat(labels)
    trust = F.binary_cross_entropy_with_logits(logit, label) if len(label) else nothing
    hits = torch.cat(right)
    return found, trust, hits.mean() if len(hits) else nothing.detach()


def to_cells(points: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (P, 2) -> positions in cells of a grid (K, H, W, D), whole numbers being centres."""
    factor = torch.tensor([grid.shape[2] / size[1], grid.shape[1] / size[0]])
    return ((points + 0.5) * factor - 0.5).to(grid.device)


def matching_loss(
    head: MatchingHead, one: Tensor, other: Tensor, here: Tensor, there: Tensor
) -> Tensor:
    """Cross entropy of finding points of one image in the other.

    Args:
        head: gives the softmax its sharpness.
        one: (H, W, d).
        other: (H, W, d).
        here: (P, 2), positions in cells of ``one``.
        there: (P, 2), where they lie in ``other``.
    """
    height, width = other.shape[:2]
    queries = F.normalize(sample_at(one, here), dim=-1)
    logits = head.scale * queries @ other.flatten(0, 1).T
    columns = torch.arange(width, device=here.device) - there[:, :1]
    rows = torch.arange(height, device=here.device) - there[:, 1:]
    distance = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    wanted = (-distance.flatten(1) / (2 * SPREAD**2)).softmax(dim=-1)
    return -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def sample_at(grid: Tensor, positions: Tensor) -> Tensor:
    """Bilinear look-up of (P, 2) positions, in cells, in a grid (H, W, d); (P, d)."""
    span = positions.new_tensor([max(1, grid.shape[1] - 1), max(1, grid.shape[0] - 1)]) / 2
    where = (positions / span - 1)[None, None]
    found = F.grid_sample(
        grid.movedim(-1, 0)[None], where, padding_mode="border", align_corners=True
    )
    return found[0, :, 0].T
