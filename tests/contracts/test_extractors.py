"""Every registered extractor keeps the contract of framework.interfaces.FeatureExtractor."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler

from framework.registry import EXTRACTORS


@pytest.fixture(params=EXTRACTORS.names())
def extractor(request):
    return EXTRACTORS.get(request.param)()


def features_of(pipe, extractor, prompts, seeds, **options):
    sampler = tiny_sampler(pipe, extractor=extractor)
    trace = sampler(
        prompts,
        seed=seeds,
        num_inference_steps=2,
        output_type="latent",
        return_trace=True,
        **options,
    ).trace
    return trace[1].features


def test_shape_type_and_norm(sd1, extractor):
    features = features_of(sd1, extractor, ["a photo of a {}", "a {} on the snow"], [1, 2])
    assert features.target.shape == features.reference.shape and features.target.dim() == 4
    assert len(features.target) == 4
    for descriptors in (features.target, features.reference):
        assert descriptors.dtype == torch.float32 and torch.isfinite(descriptors).all()
        torch.testing.assert_close(
            descriptors.norm(dim=-1), torch.ones(descriptors.shape[:3]), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_pair_does_not_depend_on_its_batch(sd1, extractor, scale):
    """Similarities are compared: a basis of descriptors may turn, what they say may not."""

    def similarity(features, rows):
        target, reference = (
            features.target[rows].flatten(1, 2),
            features.reference[rows].flatten(1, 2),
        )
        return target @ reference.mT

    prompts, seeds = ["a photo of a {}", "a {} on the snow"], [1, 2]
    together = features_of(sd1, extractor, prompts, seeds, guidance_scale=scale)
    for row in range(2):
        alone = features_of(sd1, extractor, prompts[row], seeds[row], guidance_scale=scale)
        torch.testing.assert_close(
            similarity(alone, slice(None)),
            similarity(together, slice(row, None, 2)),
            atol=5e-3,
            rtol=0,
        )


def test_deterministic(sd1, extractor):
    first, second = (features_of(sd1, extractor, "a photo of a {}", 1) for _ in range(2))
    assert torch.equal(first.target, second.target)
