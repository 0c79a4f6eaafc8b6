"""Groups: the counterfeit differs from the truth on the object alone, the matches are true."""

from __future__ import annotations

import pytest
import torch

from framework.geometry import warp
from framework.toyworld.concepts import CONCEPTS, is_concept
from framework.toyworld.objects import CATEGORIES
from framework.transferbench.groups import WorldTransfers, counterfeit_scene


@pytest.fixture(scope="module")
def group():
    return WorldTransfers(groups=2, targets=2)[0]


def test_a_group_depends_on_its_number_alone(group):
    again = WorldTransfers(groups=40, targets=2)[0]
    assert torch.equal(again.reference, group.reference)
    assert torch.equal(again.targets[1].counterfeit, group.targets[1].counterfeit)


def test_the_counterfeit_differs_on_the_object_alone(group):
    for target in group.targets:
        differs = ((target.counterfeit - target.truth).abs().amax(dim=1)[0]) > 0.1
        assert float(differs[target.mask].float().mean()) > 0.8
        away = torch.nn.functional.max_pool2d(target.mask.float()[None, None], 3, 1, 1)[0, 0] == 0
        assert float(differs[away].float().mean()) < 0.02


def test_the_true_matches_bring_the_reference_s_colours_to_the_truth(group):
    for target in group.targets:
        if not bool(target.visible.any()):
            continue
        carried = warp(group.reference, target.matches.flow)
        error = (carried - target.truth).abs().mean(dim=1)[0] / 2
        wrong = (target.counterfeit - target.truth).abs().mean(dim=1)[0] / 2
        assert float(error[target.visible].mean()) < 0.5 * float(wrong[target.visible].mean())
        assert torch.equal(target.matches.confidence[0] > 0, target.visible)
        assert not bool((target.visible & ~target.mask).any())


def test_every_part_that_may_changes_its_colour():
    import numpy as np

    from framework.toyworld.scene import sample_scene

    rng = np.random.default_rng(0)
    for spec in CONCEPTS.values():
        scene = sample_scene(rng, spec)
        other = counterfeit_scene(rng, scene)
        fixed = CATEGORIES[spec.category].fixed
        for part, style in spec.parts.items():
            same = other.object.parts[part].colour == style.colour
            assert same == (part in fixed)
        assert other.object.shape == spec.shape and not is_concept(other.object)
        assert (other.place, other.azimuth, other.size) == (scene.place, scene.azimuth, scene.size)


def test_concepts_may_be_the_objects():
    group = WorldTransfers(groups=1, concepts=True)[0]
    assert group.name.endswith(next(iter(CONCEPTS)))
