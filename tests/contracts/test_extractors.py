"""Every registered extractor keeps the contract of framework.interfaces.FeatureExtractor."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_sampler

from framework.backbones.choose import backbone_of
from framework.extractors.diffusion import DiffusionFeatures
from framework.guidance.semantic_matching import SemanticMatching
from framework.injectors.appearance_matching import AppearanceMatching
from framework.interfaces import EXTRACTORS
from framework.masks.none import NoMask


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


def test_a_grid_that_is_not_square_and_no_guidance(sd1, extractor):
    options = {"height": 96, "width": 128}
    sampler = tiny_sampler(sd1, extractor=extractor, mask=NoMask(), options=options)
    trace = sampler(
        "a photo of a {}",
        num_inference_steps=2,
        guidance_scale=1.0,
        output_type="latent",
        return_trace=True,
    ).trace
    features = trace[1].features
    rows, height, width, _ = features.target.shape
    assert rows == 1 and features.reference.shape == features.target.shape
    assert height / width == 96 / 128
    assert trace[1].flow.shape == (1, 12, 16, 2)
    assert torch.isfinite(features.target).all()


def test_its_signature_is_plain_and_its_own(sd1, extractor):
    """What is learned over descriptors is kept with it as JSON."""
    signature = extractor.signature(backbone_of(sd1))
    assert json.loads(json.dumps(signature)) == signature and signature["name"] == extractor.name
    assert type(extractor)().signature(backbone_of(sd1)) == signature
    assert not set(extractor.unsigned) & set(signature)


def test_nothing_stays_behind(sd1, extractor):
    """No hook, no changed processor, no draw from torch's own generator."""
    random = torch.random.get_rng_state()
    processors = dict(sd1.unet.attn_processors)
    features_of(sd1, extractor, "a photo of a {}", 1)
    assert not any(module._forward_hooks for module in sd1.unet.modules())
    assert all(sd1.unet.attn_processors[name] is each for name, each in processors.items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_masks_are_those_of_the_matched_evaluation(sd1, extractor):
    """An extractor that evaluates the U-Net on its own does not disturb the masks."""

    def masks(each):
        sampler = tiny_sampler(sd1, extractor=each, injector=injector)
        options = {"num_inference_steps": 2, "output_type": "latent", "return_trace": True}
        return sampler("a photo of a {}", **options).trace[1].masks

    injector = AppearanceMatching(layers=[r"up_blocks\.3\..*attn1"], start_step=1)
    expected = masks(DiffusionFeatures(pca=8))
    torch.testing.assert_close(masks(extractor).target, expected.target)


def test_runs_in_every_family_with_guidance(any_pipe, extractor):
    """With the descriptors the guidance of the same step needs."""
    if extractor.name == "diffusion":
        pytest.skip("the other tests' default")
    guidance = SemanticMatching(weight=1.0, start_step=1)
    sampler = tiny_sampler(any_pipe, extractor=extractor, guidance=guidance)
    image = sampler("a photo of a {}", num_inference_steps=2, output_type="latent").images
    assert torch.isfinite(image).all()
