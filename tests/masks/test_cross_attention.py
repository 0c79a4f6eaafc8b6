"""Masks from cross-attention as METHOD.md, sections 3 and 7.5, describe them."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler

from framework.backbones.attention import project
from framework.backbones.choose import backbone_of
from framework.errors import UserError
from framework.interfaces.step import StepContext
from framework.masks.cross_attention import CrossAttentionMask, normalise
from framework.sampling.cache import NoCache
from framework.types import Layout

LAYERS = ["down_blocks.2.attentions.0", "down_blocks.2.attentions.1"]
LAYERS += [f"up_blocks.1.attentions.{index}" for index in range(3)]
PROMPT = "a photo of a {}"  # tokens: start, a, photo, of, a, toy, dog


def context(layout):
    return StepContext(1, 3, 600.0, 0.6, 0.8, layout)


def test_normalise():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert normalise(maps).tolist() == [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]]


@pytest.mark.parametrize("tokens", [None, [6]], ids=["concept", "one token"])
def test_mask_by_hand(sd1, tokens):
    """The mean over heads, the concept's tokens and all five coarse layers of the conditional
    half; computed here by hooks on the layers, from queries and keys."""
    times, maps = [], {}

    def enter(module, args, kwargs):
        times.append(float(args[1]))

    def look(module, args, kwargs):
        hidden, text = args[0], kwargs["encoder_hidden_states"]
        query, key, _ = project(module, hidden, text)
        scores = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        columns = [5, 6] if tokens is None else tokens
        conditional = scores[len(scores) // 2 :].mean(dim=1)
        maps.setdefault(times[-1], []).append(conditional[:, :, columns].mean(dim=-1))

    hooks = [sd1.unet.register_forward_pre_hook(enter, with_kwargs=True)]
    hooks += [
        sd1.unet.get_submodule(f"{name}.transformer_blocks.0.attn2").register_forward_pre_hook(
            look, with_kwargs=True
        )
        for name in LAYERS
    ]
    try:
        mask = CrossAttentionMask(resolution=4, tokens=tokens)
        sampler = tiny_sampler(sd1, mask=mask, cache=NoCache())
        sampler.reference()
        maps.clear()
        trace = sampler(PROMPT, output_type="latent", return_trace=True).trace
    finally:
        for hook in hooks:
            hook.remove()
    for step in (1, 2):
        seen = maps[trace[step].timestep]  # the reference is evaluated first, then the target
        assert len(seen) == 2 * 5
        mean = torch.stack([torch.cat(pair) for pair in zip(seen[:5], seen[5:], strict=True)])
        mean = mean.mean(dim=0).unflatten(1, (4, 4))
        low, high = mean.amin(dim=(1, 2), keepdim=True), mean.amax(dim=(1, 2), keepdim=True)
        expected = ((mean - low) / (high - low)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        masks = trace[step].masks
        for half in range(2):  # the conditional half serves both
            torch.testing.assert_close(masks.reference[half], expected[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(masks.target[half], expected[1], atol=1e-4, rtol=0)


def test_only_maps_seen_so_far_in_this_step_count(sd1):
    """The first matched layer, at the mask's own resolution, knows the two maps before it."""
    counts = []

    class Counting(CrossAttentionMask):
        def masks(self, height, width, pairs):
            counts.append((height, self.version))
            return super().masks(height, width, pairs)

    tiny_sampler(sd1, mask=Counting(resolution=4))(PROMPT, num_inference_steps=2)
    layers = [count for height, count in counts if height == 4]
    assert sorted(set(layers)) == [2, 3, 4]  # self-attention precedes cross-attention in a block
    assert {count for height, count in counts if height > 4} == {5}


def test_capturing_is_equivalent_to_the_stock_layer(any_pipe):
    """The layers whose maps are kept give the same output as before."""
    layers = {
        name: layer
        for name, layer in any_pipe.unet.named_modules()
        if name.endswith("attn2") and name.startswith("up_blocks")
    }
    mask, layout = CrossAttentionMask(resolution=4), Layout(2, 2)
    text = torch.randn(4, 77, any_pipe.unet.config.cross_attention_dim)
    for layer in list(layers.values())[:3]:
        hidden = torch.randn(4, 16, layer.to_q.in_features)
        with torch.no_grad():
            stock = layer(hidden, encoder_hidden_states=text)
            with mask.attach(backbone_of(any_pipe), layout, (16, 16), [[5, 6]] * 2, [5, 6]):
                mask.begin_step(context(layout))
                mask.recall({})
                ours = layer(hidden, encoder_hidden_states=text)
                assert mask.version == 1
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-4)


def test_a_step_forgets_the_one_before(sd1):
    mask = CrossAttentionMask(resolution=4)
    with mask.attach(backbone_of(sd1), Layout(1, 1), (16, 16), [[1]], [1]):
        mask.capture("layer", torch.rand(1, 8, 16, 77))
        assert mask.version == 1
        mask.begin_step(context(Layout(1, 1)))
        assert mask.version == 0
        with pytest.raises(UserError, match="mask.resolution is 4, but no cross-attention layer"):
            mask(4, 4, 1)


def test_bad_tokens_are_refused(sd1):
    with pytest.raises(UserError, match="tokens is empty"):
        CrossAttentionMask(tokens=[])
    with pytest.raises(UserError, match="tokens is 0; expected at least 1"):
        CrossAttentionMask(tokens=[0])
    far = tiny_sampler(sd1, mask=CrossAttentionMask(resolution=4, tokens=[77]))
    with pytest.raises(UserError, match="mask.tokens has position 77; the text has 77 tokens"):
        far(PROMPT, num_inference_steps=2)
