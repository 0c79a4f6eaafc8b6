"""Injectors in the sampler and behind a threshold; their contract is in test_checks.py."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_sampler

from framework.contracts.attention import random_situation
from framework.errors import UserError
from framework.injectors.functional import attention
from framework.interfaces import INJECTORS
from framework.types import Correspondence


@pytest.fixture(params=INJECTORS.names())
def injector(request):
    return INJECTORS.get(request.param)()


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
    inputs, matches, masks = random_situation()
    wrong = type(injector)()
    wrong.attend = lambda *args: inputs.query[:, :, :-1]
    with pytest.raises(UserError, match=f"{type(injector).__name__}.attend has shape"):
        wrong(inputs, matches, masks)


def test_the_threshold_makes_a_decision_of_the_confidence(injector):
    if not injector.needs_correspondence:
        pytest.skip("uses no matches")
    inputs, matches, masks = random_situation()
    decided = Correspondence(matches.flow, (matches.confidence >= 0.6).float())
    strict = type(injector)(confidence_threshold=0.6)
    assert torch.equal(strict(inputs, matches, masks), injector(inputs, decided, masks))
    none = Correspondence(matches.flow, torch.zeros_like(matches.confidence))
    lenient = type(injector)(confidence_threshold=0.0)
    plain = attention(inputs.query, inputs.key, inputs.value)
    assert torch.equal(lenient(inputs, none, masks), plain)
