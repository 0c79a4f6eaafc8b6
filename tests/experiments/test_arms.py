import pytest

from framework.experiments.arm_tables import arms_verdict, concepts_table, means_of, sentences
from framework.experiments.arms import BASELINE, TREATED, Pair
from framework.experiments.cells import Cell
from framework.experiments.results import compare_variants
from framework.metrics.scale import Scale

SCALE = Scale(0.1, 0.6)


def pair(concept, identity, text, scale=SCALE):
    """Two pictures an arm; the numbers of either arm are those of both its pictures."""
    cells = [Cell(f"{concept}{i}", "v", concept, 0, "a {}", i, f"{i}.png") for i in range(2)]
    scores = {
        arm: {"identity": [identity[k]] * 2, "clip_image": [0.5] * 2, "clip_text": [text[k]] * 2}
        for k, arm in enumerate((BASELINE, TREATED))
    }
    seconds = {"training": 1.0, "training_cpu": 1.0}
    return Pair("m", concept, dict.fromkeys(scores, cells), scores, {"identity": scale}, seconds)


def means(pairs):
    rows = [
        {"variant": arm, "concept": p.concept, "prompt": "a {}", "seed": cell.seed}
        | {name: values[i] for name, values in p.scores[arm].items()}
        | {"identity_scaled": p.scales["identity"].place(p.scores[arm]["identity"][i])}
        for p in pairs
        for arm in (BASELINE, TREATED)
        for i, cell in enumerate(p.cells[arm])
    ]
    return means_of(compare_variants(rows, [BASELINE, TREATED], BASELINE, "configured"))


def test_the_report_of_a_concept_by_hand():
    report = pair("a", (0.3, 0.5), (0.1, 0.2)).report()
    assert report[BASELINE]["identity"] == pytest.approx(0.3)
    assert report[BASELINE]["scaled"]["identity"] == pytest.approx(0.4)
    assert report["difference"]["identity"] == pytest.approx(0.2)
    assert report["difference"]["clip_text"] == pytest.approx(0.1)
    assert report["difference"]["scaled"]["identity"] == pytest.approx(0.4)
    nothing = pair("a", (0.3, 0.5), (0.1, 0.2), Scale(None, None, "why")).report()
    assert nothing[TREATED]["scaled"]["identity"] is None
    assert nothing["difference"]["scaled"]["identity"] is None
    assert nothing["scale"]["identity"]["reason"] == "why"


def test_the_verdict_by_hand():
    pairs = [
        pair("a", (0.4, 0.6), (0.2, 0.2)),
        pair("b", (0.5, 0.6), (0.3, 0.29), Scale(None, None, "why")),
    ]
    found = means(pairs)
    assert found["difference"]["identity"].mean == pytest.approx(0.15)
    assert found["difference"]["scaled_identity"].clusters == 1
    assert "scaled_clip_image" not in found[BASELINE]
    said = arms_verdict(found)
    assert said["identity_above"] and said["identity_significant"] and said["text_held"]
    assert said["text_change"] == pytest.approx(-0.02)
    assert "above" in sentences(found)[0] and "-2.0 %" in sentences(found)[1]
    table = concepts_table({p.concept: p.report() for p in pairs}, found)
    assert "| a | 0.400 → 0.600 |" in table and "**difference, mean**" in table
    assert len({line.count("|") for line in table.splitlines() if "|" in line}) == 1


def test_the_verdict_says_no():
    found = means([pair("a", (0.6, 0.5), (0.2, 0.1))])
    said = arms_verdict(found)
    assert not said["identity_above"] and not said["text_held"]
    assert said["identity_significant"] is None
    first, second = sentences(found)
    assert "not above" in first and "below the 2.5 %" in second
