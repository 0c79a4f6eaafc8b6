import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiny_encoders import flat, mean_colour, named_colours, save_clip, save_identity

from framework.config.evaluation import EvaluationConfig
from framework.errors import UserError
from framework.metrics.copy_paste import CopyPaste
from framework.metrics.diversity import Diversity, lpips_distance, spread
from framework.metrics.loading import Encoders, load_encoders
from framework.metrics.panel import Panel, Remembered
from framework.metrics.preprocess import Preprocess
from framework.metrics.protocols import PROTOCOLS, protocol, protocol_table
from framework.metrics.subject import SMOOTH, border_distance, cut_out, otsu, subject_mask
from framework.toyworld.references import reference_scenes
from framework.toyworld.render import render
from framework.types import Concept


def thing(background, shift=(0, 0), colours=("red", "yellow", "blue")):
    """A striped square on a plain background."""
    image = Image.new("RGB", (96, 96), background)
    draw = ImageDraw.Draw(image)
    x, y = shift
    for index, colour in enumerate(colours):
        left = 30 + 12 * index + x
        draw.rectangle((left, 30 + y, left + 11, 65 + y), fill=colour)
    return image


def test_the_subject_is_what_differs_from_the_border():
    truth = torch.zeros(64, 64)
    truth[20:44, 20:44] = 1
    mask = subject_mask(thing("white"))
    overlap = float((mask * truth).sum() / ((mask + truth) > 0).sum())
    assert overlap > 0.8
    assert subject_mask(flat((9, 9, 9))).mean() == 1
    assert otsu(torch.tensor([0.0, 0.1, 0.9, 1.0])) == pytest.approx(0.5, abs=0.4)


def test_the_subject_is_found_in_the_embedded_world():
    """Against the renderer's truth, on places with a horizon and patterned objects."""
    overlaps = []
    for name in ("harlequin_mug", "taxi_car", "bee_lamp", "tuxedo_duck"):
        picture = render(reference_scenes(name)[1])
        truth = torch.from_numpy(picture.mask)[::2, ::2]
        mask = subject_mask(Image.fromarray(picture.rgb)) > 0
        overlaps.append(float((mask & truth).sum() / (mask | truth).sum()))
    assert sum(overlaps) / 4 > 0.85 and min(overlaps) > 0.7


def test_the_way_from_the_border_costs_the_edges_it_crosses():
    pixels = torch.zeros(3, 9, 9)
    pixels[:, 2:7, 2:7] = 0.5  # a square ...
    pixels[:, 4, 4:] = 0.0  # ... with a way in
    distance = border_distance(pixels)
    assert distance[3, 3] == pytest.approx(3 * 0.5 - SMOOTH)
    assert distance[4, 4] == distance[0, 5] == 0


def test_the_cut_out_has_no_background_left():
    cut = np.asarray(cut_out(thing("green"), subject_mask(thing("green")), margin=0.0))
    assert abs(cut.shape[0] - 36) <= 6 and cut.shape[0] == cut.shape[1]
    assert not ((cut == (0, 128, 0)).all(axis=-1)).mean() > 0.1


def test_a_pasted_subject_is_found_wherever_it_was_put():
    metric = CopyPaste([thing("white")])
    same, moved, other = metric.scores(
        [thing("white"), thing("green", (14, -10)), thing("green", (0, 0), ("blue", "red", "lime"))]
    ).tolist()
    assert same == pytest.approx(1, abs=1e-3)
    assert moved > 0.75 > 0.5 > other
    assert metric.scores([thing("white").rotate(90)]).item() < 0.6
    metric.update([thing("white")])
    assert metric.compute() == pytest.approx(1, abs=1e-3)


def test_diversity_is_among_the_pictures_of_a_group():
    metric = Diversity(mean_colour)
    images = [flat((255, 0, 0)), flat((0, 255, 0)), flat((0, 0, 255)), flat((9, 9, 9))]
    found = metric.scores(images, ["a", "a", "b", "c"])
    assert found[:2].tolist() == [1, 1] and found[2:].isnan().all()
    metric.update(images[:2], ["a", "a"])
    assert metric.compute() == 1
    assert spread([1, 1, 1], lambda a, b: abs(a - b)) == [1.5, 1.0, 1.5]


def test_metrics_add_up_over_ranks():
    """What torchmetrics does over ranks: states are summed."""
    one, two = Diversity(mean_colour), Diversity(mean_colour)
    one.accumulate(torch.tensor([0.0, 1.0, 1.0]))
    two.accumulate(torch.tensor([1.0]))
    assert set(one._reductions.values()) == {torchmetrics_sum()}
    one.total, one.count = one.total + two.total, one.count + two.count
    assert one.compute() == 0.75


def torchmetrics_sum():
    from torchmetrics.utilities import dim_zero_sum

    return dim_zero_sum


def test_the_panel_scores_everything_once():
    concept = Concept("mug", "<x>", "mug", (thing("white"), thing("green")))
    calls = []

    def counted(images):
        calls.append(len(images))
        return mean_colour(images)

    panel = Panel(Encoders(counted, counted, named_colours), concept)
    calls.clear()
    images = [thing("white"), thing("green"), flat((255, 0, 0))]
    scores = panel.score(images, ["a red {}", "a green {}", None], ["p", "p", "q"])
    assert all(len(values) == 3 for values in scores.values())
    assert sum(calls) == 4 * 3  # two encoders, whole pictures and cut-outs
    assert math.isnan(scores["clip_text"][2]) and math.isnan(scores["diversity"][2])
    assert scores["copy_paste"][0] > 0.9 > scores["copy_paste"][2]
    assert "lpips" not in scores
    again = Remembered(counted)
    calls.clear()
    again(images[:2]), again(images)
    assert calls == [2, 1]


def test_protocols_are_pinned_and_told():
    base = EvaluationConfig(clip="x", identity="y", batch_size=3)
    official = protocol("official").apply(base)
    assert (official.identity_size, official.first_size, official.text) == (256, 256, "template")
    assert (official.identity_normalisation, official.resize) == ("half", "stretch")
    assert (official.clip, official.identity, official.batch_size) == ("x", "y", 3)
    assert protocol("corrected").apply(official) == base
    assert all(f"| {name} |" in protocol_table() for name in PROTOCOLS)
    with pytest.raises(UserError, match="Did you mean 'official'"):
        protocol("oficial")


def test_the_first_size_stretches():
    wide = Image.new("RGB", (64, 16))
    wide.paste((255, 255, 255), (0, 0, 8, 16))
    plain = Preprocess(16, (0.0,) * 3, (1.0,) * 3)([wide])
    first = Preprocess(16, (0.0,) * 3, (1.0,) * 3, first=32)([wide])
    assert plain.max() == 0 and first[0, 0, 8, 0] > 0.9


def test_lpips_is_left_out_where_its_backbone_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert lpips_distance() is None
    with pytest.raises(UserError, match="alexnet-owt"):
        lpips_distance("alex")


def test_a_transformers_model_serves_as_identity_encoder(tmp_path):
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**small, intermediate_size=32, image_size=32, patch_size=8)
    ViTModel(config).save_pretrained(tmp_path / "vit")
    save_clip(tmp_path / "clip")
    found = load_encoders(
        EvaluationConfig(clip=str(tmp_path / "clip"), identity=str(tmp_path / "vit"))
    )
    vectors = found.identity([flat((200, 10, 10)), thing("white")])
    assert vectors.shape == (2, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_a_missing_encoder_says_which_file_was_looked_for(tmp_path):
    save_clip(tmp_path / "clip")
    save_identity(tmp_path / "identity")
    (tmp_path / "identity" / "model.safetensors").unlink()
    config = EvaluationConfig(clip=str(tmp_path / "clip"), identity=str(tmp_path / "identity"))
    with pytest.raises(UserError, match=r"identity[/\\]model.safetensors"):
        load_encoders(config)
    (tmp_path / "clip" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"clip[/\\]model.safetensors"):
        load_encoders(config)
    with pytest.raises(UserError, match="nowhere.*does not exist"):
        load_encoders(EvaluationConfig(clip="./nowhere"))
