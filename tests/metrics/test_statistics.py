import numpy as np
import pytest

from framework.errors import UserError
from framework.metrics.statistics import cluster_means, mean_interval, paired_difference
from framework.metrics.tables import markdown
from framework.metrics.verdict import pool, sentences, verdict


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


def report(identity, text, scaled=(0.2, 0.4)):
    def arm(place):
        return {
            "identity": identity[place],
            "clip_image": 0.5,
            "clip_text": text[place],
            "scaled": {"identity": scaled and scaled[place], "clip_image": None},
            "images": {
                "identity": [identity[place]] * 2,
                "clip_image": [0.5] * 2,
                "clip_text": [text[place]] * 2,
            },
        }

    return {"base": arm(0), "ours": arm(1)}


def test_verdict_by_hand():
    reports = {"a": report((0.4, 0.6), (0.2, 0.2)), "b": report((0.5, 0.6), (0.3, 0.29), None)}
    pooled = pool(reports, "base", "ours")
    assert pooled["difference"]["identity"].mean == pytest.approx(0.15)
    assert pooled["difference"]["scaled_identity"].clusters == 1
    assert "scaled_clip_image" not in pooled["base"]
    found = verdict(pooled, "base")
    assert found["identity_above"] and found["identity_significant"] and found["text_held"]
    assert found["text_change"] == pytest.approx(-0.02)
    assert "above" in sentences(pooled, "base", "ours")[0]
    assert "-2.0 %" in sentences(pooled, "base", "ours")[1]
    table = markdown(reports, pooled, {"base": "Baseline", "ours": "Ours"})
    assert "| a | 0.400 → 0.600 |" in table and "**difference, mean**" in table
    assert len({line.count("|") for line in table.splitlines() if "|" in line}) == 1


def test_verdict_says_no():
    pooled = pool({"a": report((0.6, 0.5), (0.2, 0.1))}, "base", "ours")
    found = verdict(pooled, "base")
    assert not found["identity_above"] and not found["text_held"]
    assert found["identity_significant"] is None
    first, second = sentences(pooled, "base", "ours")
    assert "not above" in first and "below the 2.5 %" in second
