import pytest

from framework.errors import UserError
from framework.experiments.axes import make_variants, nested


def names(axes, exclude=None):
    return [each.name for each in make_variants(axes, exclude)]


def test_products_vary_the_first_axis_slowest():
    axes = {"injector.start_step": [2, 4], "matcher.cycle_threshold": [0.2, 0.4]}
    assert names(axes) == [
        "start_step=2, cycle_threshold=0.2",
        "start_step=2, cycle_threshold=0.4",
        "start_step=4, cycle_threshold=0.2",
        "start_step=4, cycle_threshold=0.4",
    ]


def test_a_zip_moves_keys_together():
    variants = make_variants({"injector.start_step, guidance.start_step": [[2, 3], [4, 5]]})
    assert [dict(each.values) for each in variants] == [
        {"injector.start_step": 2, "guidance.start_step": 3},
        {"injector.start_step": 4, "guidance.start_step": 5},
    ]
    with pytest.raises(UserError, match="lists of 2 values"):
        make_variants({"a.b, c.d": [[1]]})


def test_named_variants_as_mapping_or_list():
    mapping = {"arm": {"plain": {"injector": "none"}, "full": None}}
    listed = {"arm": [{"name": "plain", "injector": "none"}, {"name": "full", "seed": 1}]}
    assert names(mapping) == names(listed) == ["plain", "full"]
    assert make_variants(mapping)[0].values == {"injector.name": "none"}


def test_exclusions_name_keys_or_labels():
    axes = {"arm": {"plain": {"injector": "none"}, "full": {}}, "matcher.cycle_threshold": [1, 2]}
    assert names(axes, [{"arm": "plain", "matcher.cycle_threshold": [2]}]) == [
        "plain, cycle_threshold=1",
        "full, cycle_threshold=1",
        "full, cycle_threshold=2",
    ]
    assert len(names(axes, [{"injector.name": "none", "matcher.cycle_threshold": 2}])) == 3
    with pytest.raises(UserError, match=r"Unknown axis in exclude 'arms'. Did you mean 'arm'"):
        make_variants(axes, [{"arms": "plain"}])
    with pytest.raises(UserError, match="empty"):
        make_variants(axes, [{"arm": ["plain", "full"]}])


@pytest.mark.parametrize("values", [[], {}, 3, "text", [1, 1]])
def test_what_is_no_axis(values):
    with pytest.raises(UserError):
        make_variants({"matcher.cycle_threshold": values})


def test_a_name_comes_before_the_options_of_a_part():
    layer = nested({"injector.start_step": 3, "injector.name": "none"})
    assert layer == {"injector": {"name": "none", "start_step": 3}}
