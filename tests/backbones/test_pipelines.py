"""Pipelines as diffusers permits them: they work, or are refused when they are first seen."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    EDMDPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from tiny import tiny_sampler, tiny_sd, tiny_sdxl

from framework.backbones.choose import backbone_of
from framework.errors import UserError

PROMPT = "a photo of a {}"
SHORT = {"num_inference_steps": 2}


def small_sd() -> StableDiffusionPipeline:
    return tiny_sd(sample_size=16)


def tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).eval()


def without(pipe, *names):
    return type(pipe)(
        **(pipe.components | dict.fromkeys(names)),
        **(
            {}
            if isinstance(pipe, StableDiffusionXLPipeline)
            else {"requires_safety_checker": False}
        ),
    )


def test_the_tiny_vae_codes_pictures():
    pipe = small_sd()
    pipe.vae = tiny_vae()
    model = backbone_of(pipe)
    image = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        assert torch.equal(model.encode_image(image), pipe.vae.encode(image).latents)
    mean, std = model.posterior(image)
    assert mean.shape == (1, 4, 16, 16) and not std.any()
    sampler = tiny_sampler(pipe, options=SHORT)
    matched = sampler(PROMPT, output_type="pt").images
    assert matched.shape == (1, 3, 128, 128) and matched.isfinite().all()
    plain = tiny_sampler(pipe, injector="none", options=SHORT)(PROMPT, output_type="pt").images
    assert not torch.equal(matched, plain)


def test_weights_stored_in_eight_bits_are_cast_layer_by_layer():
    pipe = small_sd()
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert backbone_of(pipe).dtype == torch.float32
    matched = tiny_sampler(pipe, options=SHORT)(PROMPT, output_type="latent").images
    plain = tiny_sampler(pipe, injector="none", options=SHORT)(PROMPT, output_type="latent").images
    assert matched.isfinite().all() and not torch.equal(matched, plain)


@pytest.mark.parametrize("name", ["text_encoder", "tokenizer"])
def test_text_encoders_left_out_are_refused_at_construction(name):
    with pytest.raises(UserError, match=f"StableDiffusionPipeline has no {name}; .* every comp"):
        tiny_sampler(without(small_sd(), name))


def test_xl_without_its_first_text_encoder_is_refused_at_construction():
    pipe = without(tiny_sdxl(sample_size=16), "text_encoder", "tokenizer")
    with pytest.raises(UserError, match="XLPipeline has no text_encoder and no tokenizer"):
        tiny_sampler(pipe)


def test_compiled_parts():
    pipe = small_sd()
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block)
    with pytest.raises(UserError, match="'mid_block' is compiled, and attention is replaced"):
        tiny_sampler(pipe)
    pipe = small_sd()
    expected = tiny_sampler(pipe, options=SHORT)(PROMPT, output_type="pt").images
    pipe.vae = torch.compile(pipe.vae, backend="eager")  # nothing inside is replaced
    pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
    again = tiny_sampler(pipe, options=SHORT)(PROMPT, output_type="pt").images
    torch.testing.assert_close(again, expected)


def test_weights_parked_on_the_meta_device_are_refused():
    pipe = small_sd()
    pipe.unet.mid_block.to("meta")
    with pytest.raises(
        UserError, match="'mid_block.*' is on the meta device.*enable_model_cpu_off"
    ):
        tiny_sampler(pipe)


def test_a_forward_of_others_that_goes_round_the_processor_is_refused():
    """Injection without effect would be the baseline's picture, without a word."""
    pipe = small_sd()
    sampler = tiny_sampler(pipe, options=SHORT)
    layer = pipe.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    layer.forward = lambda hidden, *args, **rest: layer.to_out[0](layer.to_v(hidden))
    for each in (sampler, tiny_sampler(pipe, options=SHORT)):
        with pytest.raises(UserError, match="'up_blocks.1.attentions.0.*attn1' .* replaced"):
            each(PROMPT, output_type="latent")
    plain = tiny_sampler(pipe, injector="none", options=SHORT)
    assert plain(PROMPT, output_type="latent").images.isfinite().all()


def test_betas_that_nobody_gave_are_not_invented():
    pipe = small_sd()
    pipe.scheduler = EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0)
    for name in ("DDIMScheduler", "keep"):
        with pytest.raises(UserError, match="EDMDPMSolverMultistepScheduler"):
            tiny_sampler(pipe, options={"scheduler": name})


def spoiled(network: torch.nn.Module, name: str) -> None:
    with torch.no_grad():
        network.get_parameter(name).view(-1)[0] = float("nan")


@pytest.mark.parametrize("injector", ["appearance_matching", "none"])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "conv_in.weight"),
        ("vae", "decoder.conv_in.weight"),
        ("vae", "encoder.conv_in.weight"),
    ],
)
def test_weights_that_are_not_finite_are_named(part, name, injector):
    pipe = small_sd()
    spoiled(getattr(pipe, part), name)
    if injector == "none" and "encoder" in name:
        pytest.skip("the baseline encodes no picture")
    with pytest.raises(UserError, match=f"not finite: weight '{name}' of the .*damaged"):
        tiny_sampler(pipe, injector=injector, options=SHORT)(PROMPT)


def test_half_precision_that_overflows_is_told_from_damage():
    pipe = copy.copy(small_sd())
    model = backbone_of(pipe.to(torch.bfloat16))
    with pytest.raises(UserError, match="bfloat16 overflowed.*model.dtype=float32"):
        model.to_output(torch.full((1, 4, 16, 16), float("inf")), "latent")
    model = backbone_of(pipe.to(torch.float32))
    with pytest.raises(UserError, match="though every weight is: .* scheduler"):
        model.to_output(torch.full((1, 4, 16, 16), float("nan")), "latent")


def test_zero_terminal_snr_needs_another_prediction_than_noise():
    pipe = small_sd()
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **options)
    with pytest.raises(UserError, match="zero terminal signal.*'epsilon'"):
        tiny_sampler(pipe)
