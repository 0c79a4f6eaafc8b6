from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from framework.backbones.choose import backbone_of
from framework.concepts.preprocess import prepare_image
from framework.interfaces.levels import Level, to_eps
from framework.training.data import Batch, CachedLatents, ConceptBatches, cache_latents
from framework.training.objective import Objective


def batches(count=3, **options):
    mean = torch.arange(count).float()[:, None, None, None].expand(-1, 4, 2, 2).contiguous()
    latents = CachedLatents(mean, torch.zeros_like(mean))
    arguments = {"batch_size": 4, "timesteps": 1000, "seed": 0} | options
    return ConceptBatches(latents, ["a", "b"], **arguments)


def same(first, second):
    tensors = ("latents", "noise", "timesteps")
    equal = [torch.equal(getattr(first, name), getattr(second, name)) for name in tensors]
    return all(equal) and first.prompts == second.prompts


def test_a_batch_is_a_function_of_its_step():
    stream = iter(batches())
    early = [next(stream) for _ in range(3)]
    assert same(early[2], batches().batch(2))
    assert same(early[2], next(iter(batches(start=2))))
    assert not same(early[1], early[2])
    assert not same(early[2], batches(seed=1).batch(2))
    assert not torch.equal(early[0].noise[0], early[0].noise[1])


def test_every_picture_comes_equally_often():
    seen = torch.cat([batches().batch(step).latents[:, 0, 0, 0] for step in range(9)])
    assert torch.bincount(seen.long()).tolist() == [12, 12, 12]
    assert [set(seen[i : i + 3].tolist()) for i in (0, 3, 6)] == [{0.0, 1.0, 2.0}] * 3


def test_times_cover_the_schedule():
    free = torch.cat([batches().batch(step).timesteps for step in range(500)])
    assert 0 <= free.min() < 10
    assert 990 < free.max() < 1000
    assert abs(free.float().mean() - 500) < 25
    for step in range(20):
        shares = batches(stratified=True).batch(step).timesteps.sort().values // 250
        assert shares.tolist() == [0, 1, 2, 3]


def test_prompts_are_all_used():
    assert {text for step in range(9) for text in batches().batch(step).prompts} == {"a", "b"}


def test_cached_latents_are_the_posterior(sd1):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(2)]
    model = backbone_of(sd1)
    cached = cache_latents(model, images, 32, 32, mirror=True)
    assert cached.mean.shape == cached.std.shape == (4, 4, 4, 4)
    expected = model.encode_image(prepare_image(images[1], 32, 32))
    assert torch.allclose(cached.mean[1:2], expected, atol=1e-6)
    mirrored = prepare_image(images[1], 32, 32).flip(-1)
    assert torch.allclose(cached.mean[3:], model.encode_image(mirrored), atol=1e-6)
    assert (cached.std > 0).all()
    assert not cache_latents(model, images, 32, 32, sample=False).std.any()


def hand_batch():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 3, generator=generator)
    noise = torch.randn(2, 4, 3, 3, generator=generator)
    return Batch(latents, noise, torch.tensor([0, 1]), ["a", "b"])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_target_is_what_the_sampler_turns_back_into_noise(kind):
    objective, batch = Objective(torch.tensor([0.9, 0.2]), kind), hand_batch()
    noisy, target = objective.noisy(batch), objective.target(batch)
    for row, abar in enumerate((0.9, 0.2)):
        eps = to_eps(target[row], noisy[row], Level.of_alpha_bar(abar), kind)
        assert torch.allclose(eps, batch.noise[row], atol=1e-5)
    assert objective.loss(target, batch) == 0
    assert objective.loss(target + 2, batch).item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("epsilon", (5 / 9, 1.0)),
        ("v_prediction", (5 / 10, 0.25 / 1.25)),
        ("sample", (5.0, 0.25)),
    ],
)
def test_min_snr_weights_by_hand(kind, expected):
    """abar 0.9 and 0.2: signal-to-noise ratios 9 and 0.25."""
    objective, batch = Objective(torch.tensor([0.9, 0.2]), kind, 5.0), hand_batch()
    assert objective.weights(batch).tolist() == pytest.approx(expected)


def test_min_snr_at_pure_noise_is_finite():
    batch = hand_batch()
    for kind in ("epsilon", "v_prediction", "sample"):
        assert torch.isfinite(Objective(torch.tensor([0.9, 0.0]), kind, 5.0).weights(batch)).all()
