"""What the sampler refuses, and how it says so."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from tiny import tiny_concept, tiny_parts, tiny_sampler

from framework.config.sampler import SamplerConfig
from framework.errors import UserError
from framework.extractors.diffusion import DiffusionFeatures
from framework.injectors.appearance_matching import AppearanceMatching
from framework.masks.cross_attention import CrossAttentionMask
from framework.sampling.sampler import Sampler

PROMPT = "a photo of a {}"


@pytest.fixture(scope="module")
def sampler(sd1):
    return tiny_sampler(sd1)


BAD_CALLS = {
    "no concept": ({"prompt": "a photo of a cat"}, r"does not mention the concept.*'\{\}'"),
    "no prompt": ({"prompt": []}, "expected a text, or a list of at least one"),
    "not a prompt": ({"prompt": [3]}, "expected a text, or a list of at least one"),
    "an empty prompt": ({"prompt": ""}, "expected a text, or a list|does not mention the concept"),
    "no steps": ({"num_inference_steps": 0}, r"num_inference_steps is 0; expected .*\[1, 1000\]"),
    "many steps": ({"num_inference_steps": 1001}, r"num_inference_steps is 1001; expected .*1000"),
    "all steps": ({"num_inference_steps": 1000}, "num_inference_steps is 1000.*use fewer"),
    "half a step": ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; expected an int"),
    "scale": ({"guidance_scale": -1.0}, "guidance_scale is -1.0; expected at least 0"),
    "nan scale": ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    "inf scale": ({"guidance_scale": float("inf")}, "guidance_scale is inf; expected a finite"),
    "latents": (
        {"latents": torch.zeros(1, 4, 8, 8)},
        r"latents are \(1, 4, 8, 8\); expected a tensor \(N, 4, 16, 16\)",
    ),
    "flat latents": ({"latents": torch.zeros(4, 16, 16)}, r"expected a tensor \(N, 4, 16, 16\)"),
    "no tensor": ({"latents": [0.0]}, r"latents are list; expected a tensor"),
    "two noises": (
        {"seed": 1, "generator": torch.Generator()},
        "Got seed and generator; expected at most one",
    ),
    "seed count": ({"prompt": [PROMPT] * 2, "seed": [1, 2, 3]}, "Got 2 prompts but .* 3 images"),
    "no seeds": ({"seed": []}, r"seed is \[\]; expected an integer"),
    "negative seed": ({"seed": -1}, "seed is -1; expected"),
    "huge seed": ({"seed": 2**70}, "seed is .*; expected"),
    "text seed": ({"seed": "one"}, "seed is 'one'; expected an integer"),
    "bad generator": ({"generator": [1]}, r"generator is \[1\]; expected a torch.Generator"),
    "output type": ({"output_type": "jpeg"}, "output_type is 'jpeg'; expected one of pil, np"),
    "long prompt": (
        {"prompt": "a photo " * 40 + "of a {}"},
        "stands beyond the text encoder's length .*first 75 tokens",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused(sampler, sd1, case):
    """Before any work: the U-Net is not evaluated."""
    arguments, message = BAD_CALLS[case]
    calls = []
    hook = sd1.unet.register_forward_hook(lambda *args: calls.append(1))
    try:
        with pytest.raises(UserError, match=message):
            sampler(**({"prompt": PROMPT} | arguments))
    finally:
        hook.remove()
    assert not calls


BAD_PARTS = {
    "layers": (
        {"injector": AppearanceMatching(layers=[r"down_blox.*attn1"])},
        r"injector.layers: no layer of this model matches 'down_blox.\*attn1'. It has: down_blocks",
    ),
    "blocks": (
        {"extractor": DiffusionFeatures(blocks=["up_blocks.9"])},
        "extractor.blocks: no layer of this model matches 'up_blocks.9'",
    ),
    "mask layers": (
        {"mask": CrossAttentionMask(layers=["nowhere"], resolution=4)},
        "mask.layers: no layer of this model matches 'nowhere'",
    ),
    "resolution": (
        {"mask": CrossAttentionMask(resolution=5)},
        "mask.resolution is 5; the layers of a 16 x 16 latent can have 16, 8, 4, 2, 1 cells",
    ),
    "expression": (
        {"injector": AppearanceMatching(layers=["("])},
        r"injector.layers: '\(' is no regular expression",
    ),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_parts_that_do_not_fit_the_unet_are_refused_at_construction(sd1, case):
    parts, message = BAD_PARTS[case]
    with pytest.raises(UserError, match=message):
        tiny_sampler(sd1, **parts)


def test_cross_attention_is_not_self_attention(sd1):
    with pytest.raises(
        UserError,
        match="no layer of this model matches .*attn2.*It has: .*attn1",
    ):
        tiny_sampler(sd1, injector=AppearanceMatching(layers=[r"up_blocks\.1.*attn2"]))


def test_a_mask_from_layers_that_come_too_late_is_refused(sd1):
    """The only cross-attention of that size stands after the first matched layer."""
    mask = CrossAttentionMask(layers=[r"up_blocks\.3\..*attn2"], resolution=16)
    late = tiny_sampler(sd1, mask=mask)
    with pytest.raises(UserError, match=r"mask.resolution is 16, but no cross-attention.*before"):
        late(PROMPT)


def test_features_of_a_wrong_kind_are_refused(sd1):
    extractor = DiffusionFeatures(blocks=[r"up_blocks\.1\.attentions\.0\.transformer_blocks\.0"])
    wrong = tiny_sampler(sd1, extractor=extractor)
    with pytest.raises(UserError, match=r"extractor.blocks: .* name a block, a resnet"):
        wrong(PROMPT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 100}, "height is 100 pixels; expected a positive multiple of 8"),
        ({"width": 130}, "width is 130 pixels; expected a positive multiple of 8"),
        ({"reference_index": 1}, r"reference_index is 1, but .* has 1 image\(s\)"),
        ({"reference_prompt": "a photo"}, "The prompt 'a photo' does not mention the concept"),
        (
            {"scheduler": "EulerAncestralDiscreteScheduler"},
            "'EulerAncestralDiscreteScheduler' is not supported.*DDIM",
        ),
        ({"num_inference_steps": 1000}, "num_inference_steps is 1000.*use fewer"),
        ({"resize": "squash"}, "resize is 'squash'; expected one of"),
    ],
)
def test_bad_options_are_refused_at_construction(sd1, options, message):
    with pytest.raises(UserError, match=message):
        tiny_sampler(sd1, options=options)


def test_an_empty_window_is_refused():
    with pytest.raises(UserError, match=r"end_step is 4; expected more than start_step \(4\)"):
        AppearanceMatching(start_step=4, end_step=4)
    with pytest.raises(UserError, match="layers is empty"):
        AppearanceMatching(layers=[])


def test_other_pipelines_are_refused_by_name(sd1):
    inpaint = StableDiffusionInpaintPipeline(**sd1.components, requires_safety_checker=False)
    with pytest.raises(UserError, match="StableDiffusionInpaintPipeline is not supported.*XL"):
        tiny_sampler(inpaint)
    with pytest.raises(UserError, match="NoneType is not supported"):
        Sampler(None, tiny_concept(), tiny_parts(sd1), SamplerConfig())


def test_unets_conditioned_on_more_are_refused(sd1):
    parts = sd1.components
    config = dict(sd1.unet.config)
    for change, reason in (
        ({"in_channels": 9}, "takes 9 channels where a latent has 4"),
        ({"time_cond_proj_dim": 8}, "conditioned on the guidance scale"),
    ):
        unet = type(sd1.unet).from_config(config, **change)
        pipe = StableDiffusionPipeline(**(parts | {"unet": unet}), requires_safety_checker=False)
        with pytest.raises(UserError, match=reason):
            tiny_sampler(pipe)


@pytest.mark.slow
def test_a_compiled_unet_is_refused(sd1):
    inside = copy.copy(sd1)
    inside.unet = copy.deepcopy(sd1.unet)
    inside.unet.compile()
    with pytest.raises(UserError, match="is compiled"):
        tiny_sampler(inside)
    pipe = copy.copy(sd1)
    pipe.unet = torch.compile(sd1.unet)
    with pytest.raises(UserError, match="is compiled"):
        tiny_sampler(pipe)
