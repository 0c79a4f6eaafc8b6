"""Every registered injector keeps the contract of framework.interfaces.Injector."""

from __future__ import annotations

import pytest
import torch
from tiny import attention_inputs, tiny_sampler

from framework.errors import UserError
from framework.injectors.functional import attention
from framework.interfaces import INJECTORS
from framework.interfaces.injector import AttentionInputs
from framework.types import Correspondence, Masks


@pytest.fixture(params=INJECTORS.names())
def injector(request):
    return INJECTORS.get(request.param)()


def case(pairs=2, grid=(4, 6), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = grid[0] * grid[1]
    tensors = torch.randn(6, pairs, 3, cells, 8, generator=generator).to(dtype)
    inputs = attention_inputs(tensors, grid)
    flow = torch.randint(-2, 3, (pairs, *grid, 2), generator=generator).float()
    confidence, target, reference = torch.rand(3, pairs, *grid, generator=generator)
    return inputs, Correspondence(flow, confidence), Masks(target, reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [(4, 6), (1, 5), (8, 8)])
def test_shape_type_and_values(injector, dtype, grid):
    inputs, matches, masks = case(grid=grid, dtype=dtype)
    out = injector(inputs, matches if injector.needs_correspondence else None, masks)
    assert out.shape == inputs.query.shape and out.dtype == dtype
    assert torch.isfinite(out).all()


def test_deterministic_and_inputs_untouched(injector):
    inputs, matches, masks = case()
    before = [tensor.clone() for tensor in (inputs.query, inputs.key, inputs.value)]
    first = injector(inputs, matches, masks)
    assert torch.equal(injector(inputs, matches, masks), first)
    after = (inputs.query, inputs.key, inputs.value)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_pair_does_not_depend_on_its_batch(injector):
    inputs, matches, masks = case(pairs=3)
    together = injector(inputs, matches, masks)
    names = ("query", "key", "value", "reference_query", "reference_key", "reference_value")
    for row in range(3):
        one = slice(row, row + 1)
        alone = injector(
            attention_inputs([getattr(inputs, name)[one] for name in names], inputs.grid),
            Correspondence(matches.flow[one], matches.confidence[one]),
            Masks(masks.target[one], masks.reference[one]),
        )
        torch.testing.assert_close(alone, together[one])


def test_no_confidence_is_plain_attention(injector):
    """Bit for bit, for injectors that use matches; an injector that does not is not asked."""
    inputs, matches, masks = case()
    if injector.needs_correspondence:
        none = Correspondence(matches.flow, torch.zeros_like(matches.confidence))
        plain = attention(inputs.query, inputs.key, inputs.value)
        assert torch.equal(injector(inputs, none, masks), plain)
        empty = Masks(torch.zeros_like(masks.target), masks.reference)
        assert torch.equal(injector(inputs, matches, empty), plain)


def test_the_layers_scale_is_used(injector):
    inputs, matches, masks = case()
    scaled = AttentionInputs(**(vars(inputs) | {"scale": 0.01}))
    same = AttentionInputs(**(vars(inputs) | {"scale": 8**-0.5}))
    default = injector(inputs, matches, masks)
    torch.testing.assert_close(injector(same, matches, masks), default)
    assert not torch.allclose(injector(scaled, matches, masks), default, atol=1e-3)


@pytest.mark.parametrize("name", INJECTORS.names())
def test_runs_in_the_sampler(sd1, name):
    sampler = tiny_sampler(sd1, injector=name)
    output = sampler("a photo of a {}", output_type="latent", return_trace=True)
    plain = tiny_sampler(sd1, injector="none")("a photo of a {}", output_type="latent").images
    assert torch.isfinite(output.images).all()
    injects = sampler.parts.injector.injects
    assert any(step.matched for step in output.trace) == injects
    assert torch.equal(output.images, plain) != injects
    needed = sampler.parts.injector.needs_correspondence
    assert (output.trace[-1].flow is not None) == needed


def test_a_wrong_output_is_refused(injector):
    inputs, matches, masks = case()
    wrong = type(injector)()
    wrong.attend = lambda *args: inputs.query[:, :, :-1]
    with pytest.raises(UserError, match=f"{type(injector).__name__}.attend has shape"):
        wrong(inputs, matches, masks)


def test_the_threshold_makes_a_decision_of_the_confidence(injector):
    if not injector.needs_correspondence:
        pytest.skip("uses no matches")
    inputs, matches, masks = case()
    decided = Correspondence(matches.flow, (matches.confidence >= 0.6).float())
    strict = type(injector)(confidence_threshold=0.6)
    assert torch.equal(strict(inputs, matches, masks), injector(inputs, decided, masks))
    none = Correspondence(matches.flow, torch.zeros_like(matches.confidence))
    lenient = type(injector)(confidence_threshold=0.0)
    plain = attention(inputs.query, inputs.key, inputs.value)
    assert torch.equal(lenient(inputs, none, masks), plain)
