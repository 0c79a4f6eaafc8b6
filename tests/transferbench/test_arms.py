"""Arms from the command line, the parts that know the truth, and the tables' arithmetic."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from framework.transferbench.arms import BUDGET, NOTHING, budget_arms, distinct, read_arm
from framework.transferbench.bench import FLOOR
from framework.transferbench.tables import error_budget, summarise_transfer
from framework.transferbench.truth import TrueMasks, TrueMatches, identity_matches
from framework.types import Correspondence, Masks


def test_an_arm_is_a_name_settings_and_stages():
    arm = read_arm("outputs injector=output_blend 'mask={name: none}' truth=masks,matches")
    assert arm.name == "outputs" and arm.truth == ("masks", "matches")
    assert arm.overrides == ("injector=output_blend", "mask={name: none}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a name"),
        ("injector=none", "expected a name"),
        ("a injector", "is no setting"),
        ("a truth=flow", "cannot stand in for 'flow'"),
        ("a 'x=1", "close the quotes"),
    ],
)
def test_what_is_no_arm_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        read_arm(text)


def test_one_arm_injects_nothing_and_names_are_distinct():
    arms = distinct([read_arm("a"), read_arm("b")])
    assert [arm.name for arm in arms] == [NOTHING, "a", "b"]
    assert [arm.name for arm in distinct(budget_arms())] == [NOTHING, *BUDGET]
    with pytest.raises(UserError, match="Two arms are called 'a'"):
        distinct([read_arm("a"), read_arm("a x=1")])


def test_true_masks_are_shares_of_cells_for_both_halves():
    target = torch.zeros(2, 4, 4, dtype=torch.bool)
    target[0, :2, :2] = True
    target[1, 0, 0] = True
    masks = TrueMasks(target, torch.ones(4, 4, dtype=torch.bool))(2, 2, 4)
    assert masks.target[:, 0, 0].tolist() == [1.0, 0.25, 1.0, 0.25]
    assert float(masks.target[:, 1].sum()) == 0.0
    assert torch.equal(masks.reference, torch.ones(4, 2, 2))


def test_true_matches_are_in_the_cells_of_the_grid_asked_for():
    flow = torch.zeros(1, 4, 4, 2)
    flow[..., 0] = 2.0  # pixels: one cell of a grid half as fine
    matches = TrueMatches(Correspondence(flow, torch.ones(1, 4, 4)))
    masks = Masks(torch.ones(2, 2, 2), torch.ones(2, 2, 2))
    found = matches(None, masks)
    assert torch.equal(found.flow[..., 0], torch.ones(2, 2, 2))
    assert torch.equal(found.confidence, torch.ones(2, 2, 2))
    same = identity_matches(torch.ones(1, 4, 4))
    assert float(same.flow.abs().sum()) == 0.0 and float(same.confidence.mean()) == 1.0


def _records(errors):
    """Two targets of two objects; the second's errors are a tenth higher."""
    return [
        {
            "group": group,
            "target": f"{group}/0",
            "arm": arm,
            "error_object": error + extra,
            "error_hidden": None,
            "error_background": 0.1,
            "contrast": 1.0,
            "structure": 0.5,
        }
        for group, extra in (("a", 0.0), ("b", 0.1))
        for arm, error in errors.items()
    ]


def test_shares_and_losses_by_hand():
    errors = dict(
        zip([FLOOR, NOTHING, *BUDGET], (0.0, 0.4, 0.3, 0.25, 0.2, 0.15, 0.05), strict=True)
    )
    summary = summarise_transfer(_records(errors))
    assert summary[FLOOR]["removed"].mean == pytest.approx(1.0)
    assert summary[NOTHING]["removed"].mean == pytest.approx(0.0)
    assert summary["configured"]["removed"].mean == pytest.approx(0.25)
    assert summary["configured"]["error_hidden"] is None
    assert summary["configured"]["error_object"].mean == pytest.approx(0.35)
    budget = error_budget(_records(errors))
    expected = {"masks": 0.05, "matches": 0.1, "another view": 0.1, "injector and sampler": 0.05}
    assert {stage: loss.mean for stage, loss in budget.items()} == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(0.3 - 0.0)


def test_no_budget_without_its_arms():
    assert error_budget(_records({FLOOR: 0.0, NOTHING: 0.4, "mine": 0.2})) == {}
