import math

import pytest
import torch
from tiny_encoders import flat, mean_colour, named_colours

from framework.metrics.loading import Encoders
from framework.metrics.panel import Panel
from framework.metrics.similarity import (
    ClipImageSimilarity,
    ClipTextSimilarity,
    IdentitySimilarity,
    mean_cosine,
)
from framework.metrics.text import plain_prompt, template_prompt
from framework.types import Concept

RED, GREEN = flat((255, 0, 0)), flat((0, 255, 0))
YELLOW = flat((255, 255, 0))
HALF = math.sqrt(0.5)


def concept(placeholder="S*", noun="mug", images=(RED, GREEN)):
    return Concept("mine", placeholder, noun, images)


def test_mean_cosine_is_over_all_references():
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(mean_cosine(vectors, torch.eye(2)), torch.tensor([0.5, 0.7]))


@pytest.mark.parametrize("cls", [IdentitySimilarity, ClipImageSimilarity])
def test_image_similarity_by_hand(cls):
    metric = cls(mean_colour, [RED, GREEN])
    metric.update([RED])  # 1 with red, 0 with green
    metric.update([YELLOW, YELLOW])  # 1 / sqrt 2 with either
    assert float(metric.compute()) == pytest.approx((0.5 + 2 * HALF) / 3)
    metric.reset()
    metric.update([])
    assert math.isnan(float(metric.compute()))


def test_text_similarity_by_hand():
    metric = ClipTextSimilarity(mean_colour, named_colours, concept())
    metric.update([RED, RED], ["a photo of a red S* mug", "a photo of a green {}"])
    assert metric.scores([YELLOW], ["a red {}"]).tolist() == pytest.approx([HALF])
    assert float(metric.compute()) == pytest.approx(0.5)


def test_states_add_up_over_ranks():
    parts = [IdentitySimilarity(mean_colour, [RED]) for _ in range(2)]
    parts[0].update([RED, GREEN])
    parts[1].update([RED])
    whole = IdentitySimilarity(mean_colour, [RED])
    for name, reduction in whole._reductions.items():
        setattr(whole, name, reduction(torch.stack([getattr(part, name) for part in parts])))
    whole._update_count = 1
    assert float(whole.compute()) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of a S* mug in the snow", "a photo of a mug in the snow"),
        ("a photo of a {} in the snow", "a photo of a mug in the snow"),
        ("a photo of a S* in the snow", "a photo of a mug in the snow"),
        ("a S* mug beside a S* mugshot", "a mug beside a mug mugshot"),
        ("a  photo   of a {}, on the left", "a photo of a mug, on the left"),
    ],
)
def test_the_placeholder_is_taken_out(prompt, expected):
    assert plain_prompt(prompt, concept()) == expected


def test_several_words_and_no_placeholder():
    assert plain_prompt("a <a b> toy car", concept("<a b>", "toy car")) == "a toy car"
    assert plain_prompt("a {} here", concept("", "mug")) == "a mug here"


def test_the_template_has_its_braces():
    assert template_prompt("a photo of a S* mug here", concept()) == "a photo of a {} here"
    assert template_prompt("a {} here", concept()) == "a {} here"


def test_a_concept_s_scale_is_of_its_own_and_of_others_pictures():
    panel = Panel(Encoders(mean_colour, mean_colour, named_colours), concept())
    scales = panel.scales([concept(images=(YELLOW,)), concept(images=(RED, RED))])
    assert scales["identity"].one == pytest.approx(0.0)
    assert scales["identity"].zero == pytest.approx((HALF + 0.5) / 2)
