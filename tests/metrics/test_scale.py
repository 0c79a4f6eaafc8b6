import re

import pytest
import torch
from tiny_encoders import flat

from framework.concepts.folders import write_concept_file
from framework.metrics.scale import among, make_scale, other_concepts
from framework.types import Concept

EAST, NORTH = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
BETWEEN = torch.tensor([[0.6, 0.8]])


def test_no_picture_is_compared_with_itself():
    assert among(torch.cat([EAST, NORTH])) == 0.0
    assert among(torch.cat([EAST, BETWEEN])) == pytest.approx(0.6)
    assert among(EAST) is None


def test_anchors_and_places_by_hand():
    own = torch.cat([EAST, BETWEEN])
    scale = make_scale(own, [NORTH, torch.cat([NORTH, NORTH])])
    assert (scale.zero, scale.one, scale.reason) == (pytest.approx(0.4), pytest.approx(0.6), None)
    assert scale.place(0.4) == pytest.approx(0.0, abs=1e-6)
    assert scale.place(0.6) == pytest.approx(1.0)
    assert scale.place(0.7) == pytest.approx(1.5)


def test_every_other_concept_weighs_the_same():
    scale = make_scale(torch.cat([EAST, EAST]), [EAST, torch.cat([NORTH] * 9)])
    assert scale.zero == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("own", "others", "words"),
    [
        (torch.cat([EAST, EAST]), [], "no other concept"),
        (EAST, [NORTH], "single picture"),
        (EAST, [], "no other concept .*; .*single picture"),
        (torch.cat([EAST, EAST]), [EAST], "as similar"),
    ],
)
def test_what_cannot_be_computed_is_null_with_a_reason(own, others, words):
    scale = make_scale(own, others)
    assert scale.place(0.5) is None
    assert re.search(words, scale.reason)


def test_other_concepts_are_those_with_other_pictures(tmp_path):
    for name, colour in (("one", (255, 0, 0)), ("two", (0, 255, 0))):
        (tmp_path / name).mkdir()
        flat(colour).save(tmp_path / name / "0.png")
        write_concept_file(tmp_path / name, "mug")
    mine = Concept("copy", "S*", "mug", (flat((255, 0, 0)),))
    assert [other.name for other in other_concepts(str(tmp_path), mine)] == ["two"]
    assert other_concepts(str(tmp_path / "nowhere"), mine) == []
