"""Matchers by sparse points: spreading them, real matches without weights, loading weights."""

from __future__ import annotations

import kornia.feature as KF
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_sampler
from torch.nn.functional import interpolate

from framework.errors import UserError
from framework.types import Masks, Views
from matchers.functional_sparse import SparseMatches, densify
from matchers.lightglue import LightGlueMatcher
from matchers.loftr import Loftr
from matchers.smooth_flow import SmoothFlow


def sparse(target, reference, score):
    return SparseMatches(torch.tensor(target), torch.tensor(reference), torch.tensor(score))


def masks(height, width):
    ones = torch.ones(1, height, width)
    return Masks(ones, ones)


def picture(seed=0):
    """Blobs of two sizes, 128 x 128."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn(1, 3, n, n, generator=generator) for n in (12, 32))
    return sum(interpolate(each, size=(128, 128), mode="bicubic") for each in (coarse, fine)) / 3


def test_a_match_by_hand():
    """The middle of the second cell of four shows the middle of the fourth."""
    found = sparse([[0.375, 0.5]], [[0.875, 0.5]], [0.8])
    dense = densify(found, 1, 4, sigma=1.0)
    assert torch.allclose(dense.flow[0, 0], torch.tensor([2.0, 0.0]))
    distance = torch.tensor([1.0, 0.0, 1.0, 2.0])
    torch.testing.assert_close(dense.confidence[0, 0], 0.8 * torch.exp(-distance.square() / 2))


def test_the_nearer_match_prevails_and_none_is_no_match():
    found = sparse([[0.125, 0.5], [0.875, 0.5]], [[0.125, 0.5], [0.375, 0.5]], [1.0, 1.0])
    flow = densify(found, 1, 4, sigma=0.7).flow[0, 0, :, 0]
    assert abs(flow[0]) < 0.01 and abs(flow[3] + 2) < 0.01 and flow[1] > -0.5 > -1.5 > flow[2]
    empty = SparseMatches(torch.empty(0, 2), torch.empty(0, 2), torch.empty(0))
    none = densify(empty, 3, 4, sigma=1.0)
    assert none.flow.shape == (1, 3, 4, 2) and none.confidence.max() == 0
    far = densify(sparse([[0.0, 0.0]], [[1.0, 1.0]], [1.0]), 1, 60, sigma=1.0)
    assert far.confidence[0, 0, -1] == 0 and far.flow[0, 0, -1].tolist() == [0, 0]


@pytest.mark.parametrize("detector", ["sift", "disk"])
def test_real_matches_without_trained_weights(detector):
    """Nearest descriptors find a shift, also between pictures of different sizes."""
    options = {"weights": "none", "detector_weights": "random", "detector": detector}
    reference = picture()
    target = reference.roll((-16, 8), (2, 3))
    result = LightGlueMatcher(**options)(None, masks(16, 16), Views(target, reference))
    trusted = result.confidence > 0.1
    assert trusted.float().mean() > 0.2
    median = result.flow[trusted].median(dim=0).values
    torch.testing.assert_close(median, torch.tensor([-1.0, 2.0]), atol=0.1, rtol=0)


def test_the_points_of_one_look_are_found_once_for_all_grids():
    matcher, calls = LightGlueMatcher(weights="none", detector="sift"), []
    points = matcher.points
    matcher.points = lambda *pair: calls.append(1) or points(*pair)
    views = Views(picture(), picture())
    coarse = matcher(None, masks(8, 8), views)
    matcher(None, masks(16, 16), views)
    assert len(calls) == 1
    again = matcher(None, masks(8, 8), Views(views.target, views.reference))
    assert len(calls) == 2 and torch.equal(again.flow, coarse.flow)
    del views
    assert len(matcher._found) == 0


def test_loftr_frames(monkeypatch):
    """The network's pixel centres lie at halves, ours at whole numbers."""
    matcher = Loftr(weights="random")
    found = {
        "keypoints0": torch.tensor([[8.0, 8.0]]),
        "keypoints1": torch.tensor([[24.0, 8.0]]),
        "confidence": torch.tensor([0.5]),
    }
    monkeypatch.setattr(type(matcher.network), "forward", lambda self, data: found)
    matches = matcher.points(torch.rand(1, 3, 16, 32), torch.rand(1, 3, 16, 32))
    torch.testing.assert_close(matches.target, torch.tensor([[8 / 32, 8 / 16]]))
    torch.testing.assert_close(matches.reference, torch.tensor([[24 / 32, 8 / 16]]))


def test_weights_from_files(tmp_path):
    torch.manual_seed(1)
    disk = KF.DISK().state_dict()
    torch.save({"extractor": disk}, tmp_path / "disk.pth")
    glue = KF.LightGlue(features=None, input_dim=128).state_dict()
    published = {
        name.replace("transformers.0.self_attn", "self_attn.0"): value
        for name, value in glue.items()
        if name != "confidence_thresholds"
    }
    save_file(published, tmp_path / "glue.safetensors")
    matcher = LightGlueMatcher(
        weights=str(tmp_path / "glue.safetensors"), detector_weights=str(tmp_path / "disk.pth")
    )
    detector, network = matcher.networks
    assert all(torch.equal(value, disk[name]) for name, value in detector.state_dict().items())
    assert torch.equal(
        network.transformers[0].self_attn.Wqkv.weight, glue["transformers.0.self_attn.Wqkv.weight"]
    )
    assert not network.training and not detector.training
    with pytest.raises(UserError, match="another network than LoFTR"):
        _ = Loftr(weights=str(tmp_path / "glue.safetensors")).network
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read as weights alone"):
        _ = Loftr(weights=str(tmp_path / "junk.pth")).network


@pytest.mark.parametrize(
    "matcher", [Loftr(weights="outdor"), LightGlueMatcher(detector_weights="dpth")]
)
def test_weights_that_are_not_there(matcher):
    with pytest.raises(UserError, match="does not exist; expected a file of weights"):
        matcher(None, masks(4, 4), Views(picture(), picture()))


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("kornia.feature.loftr.loftr.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match="matcher.weights 'outdoor' cannot be had: no route"):
        _ = Loftr().network


def test_in_the_sampler_pictures_are_decoded_and_no_features_made(sd1):
    """Every second step only, of the conditional half only."""
    decoded = []
    inner = LightGlueMatcher(weights="none", detector="sift", every=2)
    sampler = tiny_sampler(sd1, matcher=SmoothFlow(matcher=inner))
    sampler.reference()
    hook = sd1.vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(1))
    try:
        trace = sampler(
            ["a photo of a {}", "a {} on the snow"],
            num_inference_steps=4,
            guidance_scale=5.0,
            output_type="latent",
            return_trace=True,
        ).trace
    finally:
        hook.remove()
    assert len(decoded) == 4  # before steps 1 and 3, two targets each
    assert trace[-1].features is None and trace[-1].flow.shape[0] == 4
    assert torch.isfinite(trace[-1].latents).all()


def test_a_sampler_tells_at_once_that_weights_are_missing(sd1):
    for matcher in (Loftr(weights="outdor"), SmoothFlow(matcher=Loftr(weights="outdor"))):
        with pytest.raises(UserError, match="does not exist; expected a file of weights"):
            tiny_sampler(sd1, matcher=matcher)
    tiny_sampler(sd1, matcher=Loftr(weights="outdor"), injector="none")  # nothing is matched
