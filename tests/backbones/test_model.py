"""A pipeline seen through the few calls the sampler needs, against the pipeline itself."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from framework.backbones.choose import backbone_of
from framework.backbones.stable_diffusion import StableDiffusionXL
from framework.concepts.preprocess import prepare_image
from framework.errors import UserError
from framework.interfaces import Condition


def test_prompts_are_encoded_as_the_pipeline_does(any_pipe):
    model = backbone_of(any_pipe)
    conditional, unconditional = model.encode_prompt("a photo of a dog", 128, 128)
    stock = any_pipe.encode_prompt(
        "a photo of a dog", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    assert torch.equal(conditional.embeds, stock[0])
    assert torch.equal(unconditional.embeds, stock[1])
    assert set(conditional.added) == (
        {"text_embeds", "time_ids"} if isinstance(model, StableDiffusionXL) else set()
    )
    if isinstance(model, StableDiffusionXL):
        assert conditional.added["time_ids"].tolist() == [[128, 128, 0, 0, 128, 128]]
        assert torch.equal(conditional.added["text_embeds"], stock[2])


def test_the_empty_prompt_is_the_unconditional_half(any_pipe):
    model = backbone_of(any_pipe)
    plain = model.encode_plain("", 128, 128)
    assert torch.equal(plain.embeds, model.encode_prompt("a dog", 128, 128)[1].embeds)


def test_conditions_stack_by_row():
    one = Condition(torch.zeros(1, 2, 3), {"size": torch.zeros(1, 6)})
    two = Condition(torch.ones(2, 2, 3), {"size": torch.ones(2, 6)})
    both = Condition.stack([one, two])
    assert both.embeds[:, 0, 0].tolist() == both.added["size"][:, 0].tolist() == [0, 1, 1]
    assert one.map(lambda tensor: tensor + 2).added["size"].min() == 2


def test_latents_of_pictures_are_the_posterior_mean(any_pipe):
    model = backbone_of(any_pipe)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = model.encode_image(image)
    with torch.no_grad():
        mean = any_pipe.vae.encode(image).latent_dist.mean
    torch.testing.assert_close(latent, mean * 0.18215)
    assert torch.equal(model.encode_image(image), latent)


def test_decoding_does_not_depend_on_the_batch(any_pipe):
    model = backbone_of(any_pipe)
    latents = torch.randn(3, 4, 16, 16)
    with torch.no_grad():
        images = model.decode(latents)
        assert images.shape == (3, 3, 128, 128)
        assert torch.equal(model.decode(latents[1:2]), images[1:2])


@pytest.mark.parametrize("fails", [False, True])
def test_sdxls_half_precision_vae_runs_in_float32_and_is_put_back(sdxl, fails):
    pipe = copy.copy(sdxl)
    pipe.vae = copy.deepcopy(sdxl.vae).half()
    before = {name: value.clone() for name, value in pipe.vae.state_dict().items()}
    model, seen = backbone_of(pipe), []

    def look(module, args):
        seen.append(args[0].dtype)
        if fails:
            raise RuntimeError

    pipe.vae.decoder.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            model.decode(torch.randn(1, 4, 16, 16))
    except RuntimeError:
        assert fails
    assert seen == [torch.float32] and pipe.vae.dtype == torch.float16
    assert all(torch.equal(value, before[name]) for name, value in pipe.vae.state_dict().items())


def test_sizes(sd1):
    model = backbone_of(sd1)
    assert model.image_size == 128
    assert model.latent_size(192, 256) == (24, 32)
    for side in (0, 4, 100):
        with pytest.raises(UserError, match=f"height is {side} pixels; .* multiple of 8"):
            model.latent_size(side, 128)
    with pytest.raises(UserError, match="100000 x 1000000 pixels takes at least 23842 GiB"):
        model.latent_size(100_000, 1_000_000)


def test_prepare_image():
    picture = Image.new("L", (8, 4))
    picture.paste(255, (4, 0, 8, 4))
    nearest = prepare_image(picture, 2, 4, "stretch_nearest")
    assert nearest.shape == (1, 3, 2, 4) and nearest.dtype == torch.float32
    assert nearest[0, 0].tolist() == [[-1, -1, 1, 1]] * 2
    cropped = prepare_image(picture, 4, 4)
    assert cropped.shape == (1, 3, 4, 4) and cropped[0, 0, 0, 0] < -0.9 < 0.9 < cropped[0, 0, 0, 3]
    assert prepare_image(picture, 6, 10, "stretch").shape == (1, 3, 6, 10)
    with pytest.raises(UserError, match="resize mode is 'fit'; expected one of crop"):
        prepare_image(picture, 4, 4, "fit")
