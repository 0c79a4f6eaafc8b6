"""What each injector computes, by hand."""

from __future__ import annotations

import pytest
import torch
from tiny import attention_inputs, tiny_sampler

from framework.injectors.appearance_matching import AppearanceMatching
from framework.injectors.functional import attention, blend, warp_tokens
from framework.injectors.key_value_concat import KeyValueConcat
from framework.injectors.key_value_replace import KeyValueReplace
from framework.injectors.key_value_warp import KeyValueWarp
from framework.injectors.output_blend import OutputBlend
from framework.types import Correspondence, Masks

GRID, CELLS = (2, 3), 6


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return attention_inputs(torch.randn(6, 1, 2, CELLS, 4), GRID)


@pytest.fixture
def matches():
    """Cell (0, 0) shows the reference's cell (x 2, y 1), number 5; the others their own."""
    flow = torch.zeros(1, *GRID, 2)
    flow[0, 0, 0] = torch.tensor([2.0, 1.0])
    confidence = torch.ones(1, *GRID)
    confidence[0, 1] = 0.0
    return Correspondence(flow, confidence)


@pytest.fixture
def masks():
    target = torch.ones(1, *GRID)
    target[0, 0, 1] = 0.25
    return Masks(target, torch.ones(1, *GRID))


def mixed(reference, target):
    """By hand: full weight at cells 0 and 2, a quarter at 1, none in the second row."""
    out = target.clone()
    out[:, :, 0] = reference[:, :, 5]
    out[:, :, 1] = 0.25 * reference[:, :, 1] + 0.75 * target[:, :, 1]
    out[:, :, 2] = reference[:, :, 2]
    return out


def test_warp_tokens(inputs, matches):
    warped = warp_tokens(inputs.reference_value, matches.flow)
    expected = inputs.reference_value.clone()
    expected[:, :, 0] = inputs.reference_value[:, :, 5]
    torch.testing.assert_close(warped, expected)


def test_blend_is_exact_at_both_ends():
    reference, target = torch.randn(2, 1, 2, CELLS, 4)
    zeros, ones = torch.zeros(1, *GRID), torch.ones(1, *GRID)
    assert torch.equal(blend(reference, target, zeros), target)
    torch.testing.assert_close(blend(reference, target, ones), reference)
    unusable = torch.full_like(reference, float("nan"))
    assert torch.equal(blend(unusable, target, zeros), target)


def test_appearance_matching(inputs, matches, masks):
    """Eqs. 3-5, 8: the values change, queries and keys stay the target's."""
    value = mixed(inputs.reference_value, inputs.value)
    weights = (inputs.query @ inputs.key.mT / 2).softmax(dim=-1)
    torch.testing.assert_close(AppearanceMatching()(inputs, matches, masks), weights @ value)


def test_key_value_warp(inputs, matches, masks):
    value = mixed(inputs.reference_value, inputs.value)
    key = mixed(inputs.reference_key, inputs.key)
    weights = (inputs.query @ key.mT / 2).softmax(dim=-1)
    torch.testing.assert_close(KeyValueWarp()(inputs, matches, masks), weights @ value)


def test_key_value_replace(inputs, masks):
    weights = (inputs.query @ inputs.reference_key.mT / 2).softmax(dim=-1)
    expected = weights @ inputs.reference_value
    torch.testing.assert_close(KeyValueReplace()(inputs, None, masks), expected)


def test_key_value_concat(inputs, masks):
    """The soft mask multiplies the reference's unnormalised weights."""
    soft = torch.rand(1, *GRID)
    own = (inputs.query @ inputs.key.mT / 2).exp()
    other = (inputs.query @ inputs.reference_key.mT / 2).exp() * soft.flatten()
    total = own.sum(-1, keepdim=True) + other.sum(-1, keepdim=True)
    expected = (own @ inputs.value + other @ inputs.reference_value) / total
    got = KeyValueConcat()(inputs, None, Masks(masks.target, soft))
    torch.testing.assert_close(got, expected)


def test_key_value_concat_without_foreground_is_plain_attention(inputs, masks):
    got = KeyValueConcat()(inputs, None, Masks(masks.target, torch.zeros(1, *GRID)))
    torch.testing.assert_close(got, attention(inputs.query, inputs.key, inputs.value))


def test_output_blend_warps_what_the_reference_s_own_attention_gives(inputs, matches, masks):
    own = attention(inputs.query, inputs.key, inputs.value)
    reference = attention(inputs.reference_query, inputs.reference_key, inputs.reference_value)
    out = OutputBlend()(inputs, matches, masks)
    torch.testing.assert_close(out, mixed(reference, own))


def test_the_reference_s_output_is_what_its_layer_gave(sd1):
    """With the identity as flow, full confidence and the same latents nothing changes."""
    outputs = {}

    class Noting(OutputBlend):
        """Keeps the reference's outputs beside those computed from its queries, keys and values."""

        uses = ("query", "key", "value", "output")

        def attend(self, inputs, correspondence, masks):
            """Note, then blend."""
            names = ("query", "key", "value")
            computed = attention(*(inputs.reference[name] for name in names), inputs.scale)
            outputs.setdefault(inputs.layer, []).append((inputs.reference["output"], computed))
            return super().attend(inputs, correspondence, masks)

    tiny_sampler(sd1, injector=Noting(start_step=1))("a photo of a {}", output_type="latent")
    assert outputs
    for pairs in outputs.values():
        for given, computed in pairs:
            torch.testing.assert_close(given, computed)
