"""What the author of a part or of a loop can express in one file; the files are in own_parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import tiny_concept, tiny_parts, tiny_sampler
from tiny_personal import make_concept

from framework.config.sampler import SamplerConfig
from framework.errors import UserError
from framework.registry import REGISTRIES
from framework.sampling.cache import MemoryCache, NoCache
from framework.sampling.sampler import Sampler
from framework.trajectories.forward_noise import ForwardNoise

FOLDER = Path(__file__).parent / "own_parts"
PROMPT = "a photo of a {}"
PROMPTS = [PROMPT, "a {} on the snow"]
TRACED = {"seed": [3, 4], "output_type": "latent", "return_trace": True}


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def part(kind, path, **options):
    """A part named as a configuration names it, ``module:Class``."""
    return REGISTRIES[kind].get(path)(**options)


def draw(pipe, concept=None, options=None, cache=None, **parts):
    cache = NoCache() if cache is None else cache
    sampler = tiny_sampler(pipe, concept, options, cache, **parts)
    return sampler(PROMPTS, **TRACED)


# ------------------------------------------------------------------ the loop


@pytest.fixture
def rows(sd1):
    """Rows of every evaluation of the network."""
    seen = []
    hook = sd1.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def test_another_loop_evaluates_matched_steps_twice(sd1, rows):
    assert len((FOLDER / "twice.py").read_text().splitlines()) < 70
    once = draw(sd1)
    rows.clear()
    twice = draw(sd1, options={"loop": "twice:denoise"})
    assert rows == [1, 1, 1, 2, 4] + [2, 4, 4] * 2  # inverted, described, two matched steps
    assert not torch.allclose(twice.images, once.images, atol=1e-3)
    assert [step.matched for step in twice.trace] == [False, True, True]
    from twice import denoise

    given = Sampler(
        sd1,
        tiny_concept(),
        tiny_parts(sd1),
        SamplerConfig(num_inference_steps=3),
        NoCache(),
        denoise,
    )
    assert torch.equal(given(PROMPTS, **TRACED).images, twice.images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "sampler.loop is 'twice'; expected MODULE:FUNCTION"),
        ("twice:denoize", "module 'twice' has no function 'denoize'"),
        ("thrice:denoise", "'thrice' cannot be imported"),
    ],
)
def test_a_loop_that_is_not_there_is_refused(sd1, name, message):
    with pytest.raises(UserError, match=message):
        tiny_sampler(sd1, options={"loop": name})


def test_a_loop_that_gives_something_else_is_refused(sd1):
    config = SamplerConfig(num_inference_steps=2)
    sampler = Sampler(sd1, tiny_concept(), tiny_parts(sd1), config, loop=lambda call: call.noise[0])
    with pytest.raises(UserError, match="The sampling loop's result has shape"):
        sampler(PROMPT)


# ------------------------------------------------------------------ injectors


def test_an_injector_acts_in_some_layers_and_below_some_noise(sd1):
    layers = tiny_parts(sd1).injector.config.layers
    seen = []

    def watched(**options):
        injector = part(
            "injector", "late_layers:LateLayers", layers=layers, start_step=1, **options
        )
        attend = injector.attend
        injector.attend = lambda inputs, *rest: (seen.append(inputs), attend(inputs, *rest))[1]
        return injector

    image = draw(sd1, injector=watched(noise=1.0)).images
    plain = draw(sd1, injector="none").images
    assert not torch.allclose(image, plain, atol=1e-4)
    silent = draw(sd1, injector=watched(noise=0.0)).images  # where maps are seen, rounded otherwise
    torch.testing.assert_close(silent, plain, atol=2e-4, rtol=1e-4)
    late = draw(sd1, injector=watched(noise=0.6)).images  # the last step alone is below
    assert not torch.equal(late, silent)
    assert not torch.allclose(late, image, atol=1e-3)
    first = seen[: len(seen) // 3]
    assert {inputs.step for inputs in first} == {1, 2}
    assert len({inputs.layer for inputs in first}) == 9
    for inputs in first:
        assert 0 < inputs.noise < 1 and abs(inputs.signal**2 + inputs.noise**2 - 1) < 1e-6
        cells = inputs.grid[0] * inputs.grid[1]
        for side in (inputs.target, inputs.reference):
            assert side["hidden_state"].shape[:2] == (4, cells)
            maps = side.get("cross_attention")  # the first layer of a grid may have none before it
            if maps is not None:
                assert maps.shape == (4, cells, 77)
                torch.testing.assert_close(maps.sum(dim=-1), torch.ones(4, cells))
        assert set(inputs.reference) - {"cross_attention"} == {"value", "hidden_state"}
    assert inputs.tokens["target"] == [[5, 6], [2, 3]] * 2
    assert max(len(inputs.matches) for inputs in first) == 8  # the last of nine sees the others
    assert sum("cross_attention" in inputs.target for inputs in first) >= 12


# ------------------------------------------------------------------ masks and matchers


def test_a_segmenter_serves_both_sides(sd1):
    mask = part("mask", "segmenter_mask:SegmenterMask")
    trace = draw(sd1, mask=mask).trace
    for step in trace[1:]:
        for side in (step.masks.target, step.masks.reference):
            assert side.unique().tolist() == [0, 1]
        assert torch.equal(step.masks.target[:2], step.masks.target[2:])  # both halves
        assert not torch.equal(step.masks.target[0], step.masks.reference[0])
    assert torch.equal(trace[1].masks.reference, trace[2].masks.reference)


def test_a_mask_uses_descriptors_and_matches_of_the_step_before(sd1):
    trace = draw(sd1, mask=part("mask", "matched_mask:MatchedMask")).trace
    assert 0 < trace[1].masks.target.mean() < 1  # from descriptors
    assert torch.equal(trace[2].masks.target, trace[1].confidence)  # from matches


def test_a_matcher_knows_the_matches_of_the_step_before(sd1):
    steady = draw(sd1, matcher=part("matcher", "steady_matcher:SteadyMatcher")).trace
    fresh = draw(sd1).trace
    assert torch.equal(steady[1].flow, fresh[1].flow)
    assert (steady[2].confidence >= steady[1].confidence).all()
    kept = steady[1].confidence == 1
    assert kept.any() and torch.equal(steady[2].flow[kept], steady[1].flow[kept])
    assert not torch.equal(fresh[2].flow[kept], fresh[1].flow[kept])


def test_a_matcher_sees_the_descriptors_of_several_steps(sd1):
    mean, single = (
        draw(sd1, options={"num_inference_steps": 4}, matcher=matcher).trace
        for matcher in (part("matcher", "mean_matcher:MeanMatcher"), tiny_parts(sd1).matcher)
    )
    assert torch.equal(mean[1].flow, single[1].flow)  # there is one step so far
    assert not torch.equal(mean[2].flow, single[2].flow)


def test_a_wrapped_matcher_is_told_as_well(sd1):
    from matchers.smooth_flow import SmoothFlow

    wrapper = SmoothFlow(matcher={"name": "mean_matcher:MeanMatcher"})
    assert wrapper.needs.history == 3
    draw(sd1, matcher=wrapper)
    assert wrapper.inner.context.index == 2 and len(wrapper.inner.context.history) == 2


# ------------------------------------------------------------------ trajectories


def test_a_trajectory_brings_text_embeddings_for_each_step(sd1):
    shown = []

    def look(module, args, kwargs):
        if len(args[0]) == 2:  # the reference's two halves; one row is the inversion
            shown.append(kwargs["encoder_hidden_states"])

    trajectory = part("trajectory", "null_text:NullText", iterations=1)
    cache = MemoryCache(10**9, 10**4)
    sampler = tiny_sampler(sd1, None, None, cache, trajectory=trajectory)
    embeds = sampler.reference().embeds["unconditional"]
    assert not torch.allclose(embeds[0], embeds[2])
    hook = sd1.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        image = sampler(PROMPTS, **TRACED).images
    finally:
        hook.remove()
    assert len(shown) == 3
    for index, rows in enumerate(shown):
        assert torch.equal(rows[0], embeds[index, 0]) and not torch.equal(rows[1], embeds[index, 0])
    again = tiny_sampler(sd1, None, None, cache, trajectory=trajectory)  # from the cache
    assert torch.equal(again(PROMPTS, **TRACED).images, image)
    plain = draw(sd1).images
    assert not torch.allclose(plain, image, atol=1e-4)


def test_a_trajectory_brings_a_prompt(sd1):
    own = part("trajectory", "described:Described")
    cache = MemoryCache(10**9, 10**4)
    described = draw(sd1, trajectory=own, cache=cache).images
    assert torch.equal(draw(sd1, trajectory=own, cache=cache).images, described)
    told = {"reference_prompt": "a {} on the snow"}
    assert torch.equal(draw(sd1, options=told, trajectory=ForwardNoise()).images, described)
    assert not torch.equal(draw(sd1, trajectory=ForwardNoise()).images, described)


def test_a_trajectory_makes_references_of_several_pictures(sd1):
    concept = dataclasses.replace(make_concept(), placeholder="red", class_name="cat")
    every = part("trajectory", "every_picture:EveryPicture")
    first = draw(sd1, concept).images
    both = draw(sd1, concept, trajectory=every).images
    assert not torch.allclose(both, first, atol=1e-4)
    twins = dataclasses.replace(concept, images=concept.images[:1] * 2)
    alike = draw(sd1, twins, trajectory=every).images
    torch.testing.assert_close(alike, first, atol=2e-4, rtol=1e-3)
    guidance = part("guidance", "colour_guidance:ColourGuidance")
    with pytest.raises(UserError, match="follows one reference and does not serve several"):
        tiny_sampler(sd1, concept, trajectory=every, guidance=guidance)
    every.pictures = lambda count, index: [count]
    with pytest.raises(UserError, match="expected at least one number from 0 to"):
        tiny_sampler(sd1, concept, trajectory=every)


# ------------------------------------------------------------------ guidance


def test_a_guidance_decodes_and_knows_the_step(sd1):
    guidance = part("guidance", "colour_guidance:ColourGuidance")
    sampler = tiny_sampler(sd1, guidance=guidance)
    wanted = sampler.reference().image.mean(dim=(2, 3))

    def distance(images):
        return (sampler.model.decode(images).mean(dim=(2, 3)) - wanted).square().sum()

    assert distance(draw(sd1, guidance=guidance).images) < distance(draw(sd1).images)


# ------------------------------------------------------------------ bases


def test_parts_that_say_nothing_special_are_cached_and_serve_several_concepts(sd1, rows):
    parts = {
        "extractor": part("extractor", "deep_features:DeepFeatures"),
        "mask": part("mask", "sharp_mask:SharpMask"),
    }
    cache = MemoryCache(10**9, 10**4)
    image = draw(sd1, cache=cache, **parts).images
    rows.clear()
    assert torch.equal(draw(sd1, cache=cache, **parts).images, image)
    assert rows == [4] * 3  # the reference is in the cache
    trace = draw(sd1, **parts).trace
    assert trace[1].features.target.shape == (4, 8, 8, 64)
    assert trace[1].masks.target.unique().tolist() == [0, 1]

    concepts = (
        tiny_concept("toy", "dog"),
        dataclasses.replace(make_concept(), name="my-cat", placeholder="red", class_name="cat"),
    )
    each = [
        tiny_parts(
            sd1,
            extractor=part("extractor", "deep_features:DeepFeatures"),
            mask=part("mask", "sharp_mask:SharpMask"),
        )
        for _ in concepts
    ]
    several = Sampler(sd1, concepts, each, SamplerConfig(num_inference_steps=3), NoCache())
    together = several("a {0} and a {1}", seed=0, output_type="latent").images
    assert torch.isfinite(together).all()
