"""The trained head: what it computes, how it is kept, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler
from torch.nn.functional import normalize

from framework.backbones.choose import backbone_of
from framework.backbones.loading import load_pipeline
from framework.config.page import load_config
from framework.config.resources import resolve_path
from framework.errors import UserError
from framework.extractors.diffusion import DiffusionFeatures
from framework.extractors.fused import Fused
from framework.interfaces import FeatureExtractor
from framework.types import Features, Masks
from matchers.learned import (
    SHIPPED,
    LearnedMatcher,
    MatchingHead,
    load_head,
    match_projected,
    save_head,
)
from matchers.smooth_flow import SmoothFlow


def grid(batch, height, width, depth, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(batch, height, width, depth, generator=generator), dim=-1)


def ones(like):
    full = torch.ones(like.shape[:3])
    return Masks(full, full)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MatchingHead(width=12, dim=8, blocks=2).eval()


def test_what_comes_out_is_normalised(head):
    found = head(grid(2, 5, 7, 12))
    assert found.shape == (2, 5, 7, 8)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 5, 7))


def test_matches_of_known_descriptors():
    """One-hot descriptors, very sharp: the flow is exact, the peak is everything, cycles close."""
    head = MatchingHead(width=16, dim=16, blocks=0)
    head.sharpness.data.fill_(10.0)  # clamped to a factor of 100
    assert head.scale == 100
    reference = torch.eye(16).view(1, 4, 4, 16)
    target = reference.roll((0, -1), dims=(1, 2))  # target cell x shows reference cell x + 1
    flow, signs = match_projected(head, target, reference)
    assert (flow[0, :, :3] - torch.tensor([1.0, 0.0])).abs().max() < 1e-6
    assert (flow[0, :, 3] - torch.tensor([-3.0, 0.0])).abs().max() < 1e-6
    similarity, peak, cycle, spread, unlike, *around = signs.unbind(-1)
    torch.testing.assert_close(similarity, torch.ones(1, 4, 4))
    torch.testing.assert_close(peak, torch.ones(1, 4, 4))
    assert cycle.abs().max() < 1e-6 and spread.max() < 0.01
    # A cell of the first column sees columns 0 to 2, which all move alike; one of the second sees
    # the fourth, which moves 4 cells less: the mean is 1 less, 8 on a grid of 32 cells.
    torch.testing.assert_close(unlike[0, :, 0], torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(unlike[0, :, 1], torch.full((4,), 8.0).log1p())
    torch.testing.assert_close(around[0], torch.ones(1, 4, 4))


def test_the_spread_of_a_softmax_is_in_the_signs():
    """Two cells equally alike, three apart: half of the mass is three cells from the match."""
    head = MatchingHead(width=2, dim=2, blocks=0)
    head.sharpness.data.fill_(10.0)
    reference = torch.zeros(1, 1, 4, 2)
    reference[0, 0, [0, 3], 0] = reference[0, 0, [1, 2], 1] = 1
    _, signs = match_projected(head, reference, reference)
    expected = torch.tensor((0.5 * 9) ** 0.5 * 32 / 4).log1p()
    torch.testing.assert_close(signs[0, 0, 0, 3], expected)


def test_training_starts_from_the_descriptors_own_similarities():
    """With as many axes as there is variance the cosine of centred descriptors is kept."""
    torch.manual_seed(0)
    head = MatchingHead(width=12, dim=8, blocks=2)
    inside = torch.randn(500, 6) @ torch.randn(6, 12) + torch.randn(12)
    head.start_from(inside)
    found = head(inside.view(1, 20, 25, 12)).flatten(0, 2)
    centred = normalize(inside - inside.mean(0), dim=-1)
    torch.testing.assert_close(found @ found.T, centred @ centred.T, atol=1e-4, rtol=0)
    wide = MatchingHead(width=4, dim=6, blocks=0)  # more channels out than in
    wide.start_from(torch.randn(50, 4))
    assert wide(grid(1, 2, 2, 4)).isfinite().all()


def test_a_match_may_lie_between_cells():
    head = MatchingHead(width=2, dim=2, blocks=0)
    reference = normalize(
        torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]]), dim=-1
    )
    head.sharpness.data.fill_(10.0)
    flow, *_ = match_projected(head, reference, reference)
    torch.testing.assert_close(flow[0, 0, 0], torch.tensor([0.5, 0.0]))


def test_saved_and_read_again(head, tmp_path):
    path = save_head(head, tmp_path / "head.safetensors", {"extractor": {"name": "mine"}})
    again, about = load_head(str(path))
    same = grid(1, 4, 4, 12)
    assert torch.equal(again(same), head(same)) and about == {"extractor": {"name": "mine"}}
    assert not any(parameter.requires_grad for parameter in again.parameters())
    matcher = LearnedMatcher(weights=str(path))
    assert matcher.needs.width == 12
    result = matcher(Features(same, same), ones(same))
    assert result.flow.shape == (1, 4, 4, 2)


def test_another_width_is_refused_with_the_extractor_it_wants(head, tmp_path):
    path = save_head(head, tmp_path / "head.safetensors", {"extractor": {"name": "mine"}})
    other = grid(1, 4, 4, 10)
    message = r"have 10 channels, and the weights .* take 12; .*trained with .*mine"
    with pytest.raises(UserError, match=message):
        LearnedMatcher(weights=str(path))(Features(other, other), ones(other))


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        LearnedMatcher(weights=str(tmp_path / "none.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot be read"):
        LearnedMatcher(weights=str(broken))
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no matching head"):
        LearnedMatcher(weights=str(tmp_path / "other.safetensors"))


def test_the_shipped_weights_are_small_and_name_their_extractor():
    path = resolve_path(SHIPPED)
    assert path.stat().st_size < 2_000_000
    head, about = load_head(str(path))
    assert head.width == 384 and about["extractor"]["pca"] is None


class Mine(FeatureExtractor):
    """Descriptors of one's own."""

    unsigned = ("every",)

    def __init__(self, depth: int = 12, every: int = 1, step: str = "early") -> None:
        self.depth = depth

    def describe(self, step):
        raise NotImplementedError


def test_descriptors_of_another_kind_are_refused_before_anything_is_computed(head, tmp_path):
    about = {"extractor": Mine().signature(None)}
    matcher = LearnedMatcher(weights=str(save_head(head, tmp_path / "head.safetensors", about)))
    matcher.check_extractor(Mine(every=4), None)  # which changes no channel's meaning
    smooth = SmoothFlow(matcher=matcher)
    for each in (matcher, smooth):
        with pytest.raises(UserError, match=r"other desc.*: depth 13 instead of 12\. Choose"):
            each.check_extractor(Mine(13), None)
        with pytest.raises(UserError, match=r"other desc.*: step 'late' instead of 'early'"):
            each.check_extractor(Mine(step="late"), None)


def test_the_preset_fits_the_shipped_weights_however_it_names_the_blocks():
    config = load_config("presets/learned")
    model = backbone_of(load_pipeline(config.model))
    config.part("matcher").check_extractor(config.part("extractor"), model)
    names = [f"up_blocks.{place}" for place in range(3)]
    LearnedMatcher().check_extractor(
        DiffusionFeatures(blocks=names, pca=None, step="current"), model
    )
    for options in ({"blocks": names[1:], "pca": None}, {"blocks": names, "pca": 384}):
        with pytest.raises(UserError, match="were trained on other descriptors"):
            LearnedMatcher().check_extractor(DiffusionFeatures(**options), model)
    fused = Fused(extractors={"diffusion": {"blocks": names, "pca": None}})
    with pytest.raises(UserError, match="name .fused. instead of .diffusion."):
        LearnedMatcher().check_extractor(fused, model)


def test_sampling_refuses_them_at_once(sd1):
    with pytest.raises(UserError, match="were trained on other descriptors"):
        tiny_sampler(sd1, matcher=LearnedMatcher())


def test_the_shipped_weights_find_an_image_in_itself():
    matcher = LearnedMatcher()
    same = grid(1, 12, 12, matcher.needs.width)
    flow = matcher(Features(same, same), ones(same)).flow
    assert (flow.norm(dim=-1) < 0.5).float().mean() > 0.9
