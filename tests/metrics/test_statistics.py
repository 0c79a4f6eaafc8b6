import numpy as np
import pytest

from framework.errors import UserError
from framework.metrics.statistics import cluster_means, mean_interval, paired_difference


def test_every_cluster_weighs_the_same():
    means = cluster_means([1, 2, 3, 10], ["a", "a", "a", "b"])
    assert means.tolist() == [2.0, 10.0]
    assert mean_interval([1, 2, 3, 10], ["a", "a", "a", "b"]).mean == 6.0


def test_interval_is_repeatable_and_brackets_the_mean():
    values = np.random.default_rng(1).normal(size=20)
    first = mean_interval(values, range(20))
    assert first == mean_interval(values, range(20))
    assert first.low < first.mean < first.high
    assert first != mean_interval(values, range(20), seed=1)


def test_interval_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(size=400)
    found = mean_interval(values, range(400))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_clustering_widens_what_repeats():
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    clustered = mean_interval(values, np.repeat(list("abcd"), 25))
    independent = mean_interval(values, range(100))
    assert clustered.high - clustered.low > 3 * (independent.high - independent.low)


def test_pairing_removes_what_pairs_share():
    shared = np.random.default_rng(0).normal(size=10)
    found = paired_difference(shared + 0.25, shared, range(10))
    assert (found.mean, found.low, found.high) == (pytest.approx(0.25),) * 3


def test_one_cluster_has_no_interval():
    found = mean_interval([1.0, 3.0], ["a", "a"])
    assert (found.mean, found.low, found.high) == (2.0, None, None)
    assert str(found) == "2.000"


@pytest.mark.parametrize(
    ("values", "clusters", "options"),
    [([], [], {}), ([1.0], ["a", "b"], {}), ([1.0], ["a"], {"level": 1.5})],
)
def test_what_cannot_be_averaged_is_refused(values, clusters, options):
    with pytest.raises(UserError):
        mean_interval(values, clusters, **options)
    with pytest.raises(UserError):
        paired_difference([1.0, 2.0], [1.0], ["a"])
