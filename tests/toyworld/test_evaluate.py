"""Measures of the exported models: intervals, distances, prompts, probe, judge, card, recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.toyworld.captions import VOCABULARY, words
from framework.toyworld.concepts import PROMPTS
from framework.toyworld.palette import PATTERNS
from framework.toyworld.pretrain import card, clip, judge, measures, probe, recipe, stages
from framework.toyworld.pretrain.attribute_prompts import NOTHING, attribute_prompts
from framework.toyworld.pretrain.data import ACCESSORY_NAMES, CATEGORY_NAMES, COLOUR_NAMES
from framework.toyworld.pretrain.inversion import place_of
from framework.toyworld.pretrain.tokenizer import build_tokenizer
from framework.toyworld.scene import PLACES, too_alike


def test_a_figure_has_an_interval_around_its_mean() -> None:
    found = measures.figure([True] * 90 + [False] * 10)
    assert found["mean"] == pytest.approx(0.9)
    assert 0.8 < found["low"] < 0.9 < found["high"] < 1.0
    assert found["values"] == 100
    assert measures.figure([])["mean"] is None


def test_intervals_over_groups_are_wider() -> None:
    values = np.repeat([0.0, 1.0, 1.0, 1.0], 25)
    alone = measures.figure(values)
    grouped = measures.figure(values, np.repeat(range(4), 25).tolist())
    assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])


def test_distance_of_normal_features_by_hand() -> None:
    """Equal spreads and means apart: the square of how far; twice the spread: (2 - 1)^2 each."""
    torch.manual_seed(0)
    x = torch.randn(4000, 3)
    assert measures.frechet(x, x) == pytest.approx(0.0, abs=1e-6)
    assert measures.frechet(x, x + torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(9.0, rel=1e-4)
    assert measures.frechet(x, 2.0 * x) == pytest.approx(3.0, rel=0.1)


def test_distance_is_in_units_of_real_to_real() -> None:
    torch.manual_seed(0)
    real, alike, other = torch.randn(400, 4), torch.randn(400, 4), 2.0 * torch.randn(400, 4)
    assert 0.5 < measures.distance_multiple(alike, real)["mean"] < 2.0
    far = measures.distance_multiple(other, real)
    assert far["mean"] > 10.0
    assert far["mean"] == pytest.approx(far["distance"] / far["floor"])


def test_attribute_prompts_say_their_labels() -> None:
    asked = attribute_prompts(300)
    known = set(VOCABULARY)
    for number, text in enumerate(asked.texts):
        assert set(words(text)) <= known
        label = {name: int(values[number]) for name, values in asked.labels.items()}
        colour = COLOUR_NAMES[label["colour"]]
        assert f"{colour} {CATEGORY_NAMES[label['category']]}" in text
        assert place_of(text) == label["place"]
        for name, classes in (("pattern", PATTERNS), ("accessory", ACCESSORY_NAMES)):
            named = [word for word in classes[1:] if word in words(text)]
            assert named == ([] if label[name] == NOTHING else [classes[label[name]]])
        if label["pattern"] != NOTHING:
            second = text.split(" with ")[1].split()[0]
            assert not too_alike(colour, second)
    assert 0.4 < float((asked.labels["pattern"] != NOTHING).float().mean()) < 0.6
    assert attribute_prompts(300).texts == asked.texts
    assert attribute_prompts(300, seed=1).texts != asked.texts


def test_every_prompt_of_the_evaluation_ends_with_a_place() -> None:
    assert {place_of(text) for text in PROMPTS} == set(range(len(PLACES)))
    with pytest.raises(ValueError, match="no place"):
        place_of("a photo of a {}")


def test_the_probe_learns_what_features_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = {
        "pattern": torch.randint(0, len(PATTERNS), (400,)),
        "accessory": torch.randint(0, len(ACCESSORY_NAMES), (400,)),
    }
    features = torch.cat(
        [torch.nn.functional.one_hot(labels[name], 6).float() for name in labels], dim=1
    )
    features = 5.0 + 3.0 * features + 0.1 * torch.randn_like(features)
    found = probe.fit_probe(features, labels)
    found.save(tmp_path)
    again = probe.Probe.load(tmp_path)
    for name, logits in again.logits(features).items():
        assert (logits.argmax(-1) == labels[name]).all()
        torch.testing.assert_close(logits, found.logits(features)[name])
    assert json.loads((tmp_path / "probe.json").read_text())["pattern"] == list(PATTERNS)


def test_only_plain_objects_colours_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no pattern was asked for, what the probe tells decides."""
    tokenizer = build_tokenizer(VOCABULARY)
    model = clip.build_clip(tokenizer, width=64, layers=1, channels=(4, 4, 4, 8)).eval()
    stripes, dots, checks = (PATTERNS.index(name) for name in ("stripes", "dots", "checks"))
    found = {
        "category": torch.tensor([0, 0, 0, 1]),
        "place": torch.tensor([0, 0, 0, 0]),
        "colour": torch.tensor([5, 6, 5, 6]),
        "pattern": torch.tensor([stripes, 0, stripes, checks]),
        "accessory": torch.tensor([0, 1, 2, 3]),
    }
    monkeypatch.setattr(judge.Judge, "told", lambda *_: found)
    labels = {
        "category": torch.zeros(4, dtype=torch.long),
        "place": torch.zeros(4, dtype=torch.long),
        "colour": torch.full((4,), 5),
        "pattern": torch.tensor([dots, NOTHING, NOTHING, checks]),
        "accessory": torch.tensor([NOTHING, 1, 3, NOTHING]),
    }
    table = judge.Judge(model, tokenizer, None, None).verdicts(torch.zeros(4, 3, 8, 8), labels)
    assert table["category"]["mean"] == 0.75
    assert (table["colour"]["mean"], table["colour"]["values"]) == (0.5, 2)
    assert (table["colour_any"]["mean"], table["colour_any"]["values"]) == (0.5, 4)
    assert (table["pattern"]["mean"], table["pattern"]["values"]) == (0.5, 2)
    assert (table["accessory"]["mean"], table["accessory"]["values"]) == (0.5, 2)


def test_the_card_has_a_row_for_what_was_measured() -> None:
    one = {"mean": 0.5, "low": 0.4, "high": 0.6, "values": 512}
    table = {
        "models": {
            "before": {"text_to_image": {"category": one | {"mean": 0.25}}},
            "after": {"text_to_image": {"category": one}, "learned": {"identity": one}},
        }
    }
    lines = card.card(table).splitlines()
    assert lines[0].count("|") == lines[2].count("|") == 6
    assert (
        "| text to image: category | 512 | 25.0 % [40.0, 60.0] | 50.0 % [40.0, 60.0] |"
        in (lines[2])
    )
    assert "| - | 0.50 [0.40, 0.60] | 0.45 |" in lines[3]
    assert len(lines) == 4


def test_the_recipe_names_stages_and_options_that_exist() -> None:
    steps = recipe.read()["stages"]
    assert [step["stage"] for step in steps][-1] == "probe"
    for step in steps[:-1]:
        known = stages.STAGES[step["stage"]][0].__dataclass_fields__
        assert set(step) - {"stage"} <= set(known)
        assert step["pictures"] > 0
