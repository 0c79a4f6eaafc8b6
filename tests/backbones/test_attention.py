"""Attaching to a pipeline and leaving it exactly as it was, also after an exception."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from tiny import tiny_concept, tiny_parts, tiny_sampler

from framework.backbones.attention import project
from framework.backbones.choose import backbone_of
from framework.config.sampler import SamplerConfig
from framework.errors import UserError
from framework.extractors.diffusion import DiffusionFeatures
from framework.guidance.semantic_matching import SemanticMatching
from framework.injectors.appearance_matching import AppearanceMatching
from framework.interfaces.layers import LayerCall
from framework.masks.cross_attention import CrossAttentionMask
from framework.sampling.cache import NoCache
from framework.sampling.sampler import Sampler
from framework.trajectories.ddim_inversion import DDIMInversion
from matchers.cycle_argmax import CycleArgmax

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(pipe) -> list:
    """Everything a sampling call could leave changed on a pipeline."""
    found = [pipe.scheduler, copy.deepcopy(vars(pipe.scheduler))]
    found += [getattr(pipe, name) for name in ("unet", "vae", "text_encoder", "tokenizer")]
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        for name, module in network.named_modules():
            hooks = [list(getattr(module, kind).items()) for kind in HOOKS]
            found.append((name, module.training, hooks))
            if isinstance(module, Attention):
                found.append((name, module.processor, id(module.processor)))
        for name, parameter in network.named_parameters():
            found.append((name, id(parameter), parameter._version, parameter.dtype))
            found.append((parameter.requires_grad, parameter.grad is None))
    return [str(entry) if isinstance(entry, dict) else entry for entry in found]


def drawn(pipe) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 2, "output_type": "latent", "height": 128, "width": 128}
    return pipe("a photo of a dog", generator=generator, **options).images


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_a_call_leaves_the_pipeline_as_it_was(any_pipe, guided):
    guidance = {"guidance": SemanticMatching(start_step=1)} if guided else {}
    image, before = drawn(any_pipe), state_of(any_pipe)
    random = torch.random.get_rng_state()
    tiny_sampler(any_pipe, **guidance)("a photo of a {}", num_inference_steps=2)
    assert state_of(any_pipe) == before
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(drawn(any_pipe), image)


class Boom(Exception):
    """What the raising parts raise."""


def raising(base, method, step=0):
    """An instance of a part whose method fails from its ``step``-th call on."""
    calls = []

    def fail(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > step:
            raise Boom(method)
        return getattr(base, method)(self, *args, **kwargs)

    return type(f"Raising{base.__name__}", (base,), {method: fail})


FAILURES = {
    "trajectory": lambda pipe: raising(DDIMInversion, "invert")(),
    "extractor": lambda pipe: raising(DiffusionFeatures, "describe", 1)(),
    "mask": lambda pipe: raising(CrossAttentionMask, "masks", 2)(resolution=4),
    "mask.capture": lambda pipe: raising(CrossAttentionMask, "capture", 3)(resolution=4),
    "matcher": lambda pipe: raising(CycleArgmax, "match", 1)(),
    "injector": lambda pipe: raising(AppearanceMatching, "attend", 4)(start_step=1),
    "guidance": lambda pipe: raising(SemanticMatching, "correct", 1)(start_step=1),
}


@pytest.mark.parametrize("part", FAILURES)
def test_an_exception_in_a_part_leaves_the_pipeline_as_it_was(sd1, part):
    before, grad = state_of(sd1), torch.is_grad_enabled()
    broken = {part.partition(".")[0]: FAILURES[part](sd1)}
    sampler = tiny_sampler(sd1, **broken)
    with pytest.raises(Boom):
        sampler("a photo of a {}")
    assert state_of(sd1) == before
    assert torch.is_grad_enabled() == grad


def test_an_exception_in_the_unet_leaves_the_pipeline_as_it_was(sd1):
    sampler = tiny_sampler(sd1, guidance=SemanticMatching(start_step=1), cache=NoCache())
    image = drawn(sd1)
    calls = []

    def fail(module, args, output):
        calls.append(1)
        if len(calls) > 4:  # after the inversion, in a guided and injecting step
            raise Boom

    hook = sd1.unet.up_blocks[3].attentions[1].register_forward_hook(fail)
    try:
        before = state_of(sd1)
        with pytest.raises(Boom):
            sampler("a photo of a {}")
        assert state_of(sd1) == before
    finally:
        hook.remove()
    assert torch.equal(drawn(sd1), image)
    sampler("a photo of a {}", num_inference_steps=2)  # and the sampler works again


def test_attached_processor_is_equivalent_when_nothing_is_injected(any_pipe):
    """The stand-in computes what the stock processor does, layer by layer."""
    parts = tiny_parts(any_pipe)
    model = backbone_of(any_pipe)
    for path in model.self_attentions(parts.injector.config.layers)[:4]:
        layer = model.network.get_submodule(path)
        hidden = torch.randn(2, 16, layer.to_q.in_features)
        with torch.no_grad():
            stock = layer(hidden)
            with model.attending([path], LayerCall.plain):
                assert not isinstance(layer.processor, AttnProcessor2_0)
                torch.testing.assert_close(layer(hidden), stock)
        assert isinstance(layer.processor, AttnProcessor2_0)


def test_project_uses_the_layers_own_modules(sd1):
    layer = sd1.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2
    hidden, text = torch.randn(2, 9, layer.to_q.in_features), torch.randn(2, 7, 32)
    query, key, value = project(layer, hidden, text)
    assert query.shape == (2, layer.heads, 9, layer.to_q.out_features // layer.heads)
    torch.testing.assert_close(query.transpose(1, 2).flatten(2), layer.to_q(hidden))
    torch.testing.assert_close(key.transpose(1, 2).flatten(2), layer.to_k(text))
    assert value.shape[2] == 7


def test_slow_processors_are_replaced_and_put_back(sd1):
    """diffusers' AttnProcessor is plain attention too."""
    pipe = copy.copy(sd1)
    pipe.unet = copy.deepcopy(sd1.unet)
    image = tiny_sampler(pipe)("a photo of a {}", output_type="latent").images
    pipe.unet.set_attn_processor(AttnProcessor())
    again = tiny_sampler(pipe)("a photo of a {}", output_type="latent").images
    torch.testing.assert_close(again, image, atol=2e-4, rtol=1e-4)
    assert {type(p) for p in pipe.unet.attn_processors.values()} == {AttnProcessor}


@pytest.mark.parametrize("when", ["at construction", "at the call"])
def test_fused_projections_are_refused(sd1, when):
    pipe = copy.copy(sd1)
    pipe.unet = copy.deepcopy(sd1.unet)
    sampler = None if when == "at construction" else tiny_sampler(pipe)
    pipe.unet.fuse_qkv_projections()
    with pytest.raises(UserError, match="FusedAttnProcessor2_0.*unfuse_qkv_projections"):
        (sampler or tiny_sampler(pipe))("a photo of a {}")
    baseline = Sampler(pipe, tiny_concept(), tiny_parts(pipe, injector="none"), SamplerConfig())
    assert baseline("a photo of a {}", num_inference_steps=1).images  # nothing is replaced


def test_detached_attention_cuts_gradients_and_only_there(sd1):
    layer = sd1.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    hidden = torch.randn(1, 9, layer.to_q.in_features, requires_grad=True)
    with backbone_of(sd1).detached_attention():
        assert not layer(hidden).requires_grad
    assert layer(hidden).requires_grad


def test_two_samplers_share_a_pipeline(sd1):
    first, second = tiny_sampler(sd1), tiny_sampler(sd1, injector="key_value_replace")
    one = first("a photo of a {}", output_type="latent").images
    second("a photo of a {}", output_type="latent")
    assert torch.equal(first("a photo of a {}", output_type="latent").images, one)
