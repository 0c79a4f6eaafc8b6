"""The cached reference pass: the same images, fewer evaluations, nothing stale."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny import tiny_concept, tiny_sampler

from framework.extractors.diffusion import DiffusionFeatures
from framework.guidance.semantic_matching import SemanticMatching
from framework.injectors.appearance_matching import AppearanceMatching
from framework.masks.cross_attention import CrossAttentionMask
from framework.masks.none import NoMask
from framework.sampling.cache import DiskCache, MemoryCache, NoCache
from framework.trajectories.forward_noise import ForwardNoise

PROMPT = "a photo of a {}"
PROMPTS = [PROMPT, "a {} on the snow", "a red {}"]


@contextmanager
def rows_of(pipe):
    """Rows of every U-Net evaluation inside the context."""
    rows = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


def memory():
    return MemoryCache(10**9, 10**4)


def draw(pipe, cache, concept=None, options=None, prompts=PROMPT, **parts):
    sampler = tiny_sampler(pipe, concept, options, cache, **parts)
    return sampler(prompts, seed=list(range(len(prompts))) if prompts != PROMPT else 7,
                   output_type="latent").images  # fmt: skip


# ------------------------------------------------------------------ the same result


@pytest.mark.parametrize(
    "injector",
    ["appearance_matching", *(pytest.param(n, marks=pytest.mark.slow) for n in (
        "key_value_warp", "key_value_replace", "key_value_concat"))],
)  # fmt: skip
def test_the_same_bits_with_and_without_cache(sd1, tmp_path, injector):
    plain = draw(sd1, NoCache(), injector=injector)
    cache = DiskCache(tmp_path, 10**9, 10**4)
    for _ in range(2):
        assert torch.equal(draw(sd1, cache, injector=injector), plain)


@pytest.mark.parametrize(
    "parts",
    [
        {"guidance": SemanticMatching(start_step=1)},
        {"guidance": SemanticMatching(start_step=1, gradient="no_attention", distance="mse")},
        {"extractor": DiffusionFeatures(blocks=[r"up_blocks\.[12]"], pca=32, step="current")},
        {"mask": NoMask()},
    ],
    ids=["guided", "guided as released", "current features", "no mask"],
)
def test_the_same_bits_with_other_parts(sd1, parts):
    cache, plain = memory(), draw(sd1, NoCache(), **parts)
    assert torch.equal(draw(sd1, cache, **parts), plain)
    assert torch.equal(draw(sd1, cache, **parts), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_the_same_bits_in_other_families(request, name):
    pipe, cache = request.getfixturevalue(name), memory()
    plain = draw(pipe, NoCache())
    assert torch.equal(draw(pipe, cache), plain) and torch.equal(draw(pipe, cache), plain)


def test_batches_share_the_pass(sd1):
    """Together, in chunks, and from the cache, to the tolerance of another batch size."""
    together = draw(sd1, NoCache(), prompts=PROMPTS)
    cache = memory()
    for _ in range(2):
        chunked = draw(sd1, cache, options={"batch_size": 2}, prompts=PROMPTS)
        torch.testing.assert_close(chunked, together, atol=2e-4, rtol=1e-4)


# ------------------------------------------------------------------ fewer evaluations


def test_evaluations(sd1):
    """3 steps, injection from step 1: the reference is seen in all three, inverted in three."""
    cache = memory()
    with rows_of(sd1) as rows:
        draw(sd1, cache, options={"batch_size": 2}, prompts=PROMPTS)
    inversion, reference = [1] * 3, [2] * 3
    first = [rows for pair in zip(reference, [4] * 3, strict=True) for rows in pair]
    assert rows == inversion + first + [2] * 3
    with rows_of(sd1) as rows:
        draw(sd1, cache, prompts=PROMPTS)
    assert rows == [6] * 3
    with rows_of(sd1) as rows:  # another seed and prompt of the same concept
        draw(sd1, cache, prompts=["a {} on the snow"])
    assert rows == [2] * 3


def test_steps_without_the_reference_do_not_evaluate_it(sd1):
    injector = AppearanceMatching(layers=[r"up_blocks\.3\..*attn1"], start_step=2, end_step=3)
    with rows_of(sd1) as rows:
        draw(sd1, NoCache(), options={"num_inference_steps": 4}, injector=injector)
    assert rows == [1] * 4 + [2] + [2, 2] * 2 + [2]


def test_guidance_evaluates_the_reference_without_gradient(sd1):
    grads = []
    hook = sd1.unet.conv_in.register_forward_hook(
        lambda module, args, out: grads.append((len(out), out.requires_grad))
    )
    try:
        draw(sd1, memory(), guidance=SemanticMatching(start_step=1), prompts=PROMPTS[:2])
    finally:
        hook.remove()
    assert grads == [(1, False)] * 3 + [(2, False), (4, False)] + [(2, False), (4, True)] * 2


# ------------------------------------------------------------------ nothing stale


def changed(pipe):
    other = copy.copy(pipe)
    other.unet = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        other.unet.mid_block.resnets[0].conv1.weight.view(-1)[777] += 1.0
    return other


CHANGES = {
    "reference_prompt": {"options": {"reference_prompt": "a toy dog on the grass"}},
    "resize": {"options": {"resize": "stretch"}},
    "size": {"options": {"height": 64, "width": 64}, "mask": CrossAttentionMask(resolution=2)},
    "steps": {"options": {"num_inference_steps": 4}},
    "scheduler": {"options": {"scheduler": "UniPCMultistepScheduler"}},
    "trajectory": {"trajectory": ForwardNoise()},
    "trajectory's option": {"trajectory": ForwardNoise(seed=3)},
    "layers": {"injector": AppearanceMatching(layers=[r"up_blocks\.3\..*attn1"], start_step=1)},
    "injector": {"injector": "key_value_replace"},
    "blocks": {"extractor": DiffusionFeatures(blocks=[r"up_blocks\.2"], pca=32)},
    "mask": {"mask": CrossAttentionMask(resolution=8)},
    "tokens": {"mask": CrossAttentionMask(resolution=4, tokens=[2])},
    "picture": {"concept": "mirrored"},
}


SLOW = pytest.mark.slow
QUICK = ("reference_prompt", "trajectory's option", "layers", "picture")


@pytest.mark.parametrize(
    "change",
    [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in CHANGES if n not in QUICK)],
)
def test_a_change_is_noticed(sd1, change):
    """One cache for two settings gives what each would without one."""
    arguments = dict(CHANGES[change])
    if "concept" in arguments:
        picture = tiny_concept().images[0].transpose(0)
        arguments["concept"] = replace(tiny_concept(), images=(picture,))
    cache, small = memory(), {"options": {"num_inference_steps": 2}}
    draw(sd1, cache, **small)
    arguments["options"] = small["options"] | arguments.get("options", {})
    assert torch.equal(draw(sd1, cache, **arguments), draw(sd1, NoCache(), **arguments))


def test_changed_weights_are_noticed(sd1):
    cache, other = memory(), changed(sd1)
    draw(sd1, cache)
    with rows_of(other) as rows:
        assert torch.equal(draw(other, cache), draw(other, NoCache()))
    assert 1 in rows


def test_weights_changed_in_place_are_noticed_by_the_same_sampler(sd1):
    pipe = copy.copy(sd1)
    pipe.unet = copy.deepcopy(sd1.unet)
    sampler = tiny_sampler(pipe, cache=memory())
    before = sampler(PROMPT, output_type="latent").images
    for parameter in pipe.unet.conv_in.parameters():
        parameter.data.mul_(0.9)  # as merging an adapter does, past torch's version counter
    after = sampler(PROMPT, output_type="latent").images
    expected = tiny_sampler(pipe, cache=NoCache())(PROMPT, output_type="latent").images
    assert torch.equal(after, expected)
    assert not torch.equal(before, after)


def test_an_adapters_scale_is_noticed(sd1):
    from peft import LoraConfig

    pipe = copy.copy(sd1)
    pipe.unet = copy.deepcopy(sd1.unet)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_v"], init_lora_weights=False))
    sampler = tiny_sampler(pipe, cache=memory())
    on = sampler(PROMPT, output_type="latent").images
    pipe.unet.disable_adapters()
    off = sampler(PROMPT, output_type="latent").images
    expected = tiny_sampler(pipe, cache=NoCache())(PROMPT, output_type="latent").images
    assert torch.equal(off, expected) and not torch.equal(on, off)


def test_damaged_and_deleted_entries_are_made_again(sd1, tmp_path):
    cache = DiskCache(tmp_path, 10**9, 10**4)
    plain = draw(sd1, cache)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4  # the trajectory and three steps
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].unlink()
    files[2].write_bytes(b"")
    assert torch.equal(draw(sd1, cache), plain)
    assert sorted(tmp_path.iterdir()) == files


def test_too_small_a_cache_changes_nothing(sd1):
    cache = MemoryCache(200_000, 10**4)
    plain = draw(sd1, NoCache())
    for _ in range(2):
        assert torch.equal(draw(sd1, cache), plain)
    assert cache.bytes <= 200_000
