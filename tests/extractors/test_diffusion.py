"""Decoder features as METHOD.md, sections 3 and 7.3, describe them."""

from __future__ import annotations

import torch
from tiny import tiny_sampler

from framework.extractors.diffusion import DiffusionFeatures
from framework.extractors.pca import joint_pca
from framework.geometry import resize_grid
from framework.injectors.appearance_matching import AppearanceMatching
from framework.sampling.cache import NoCache
from framework.sampling.matching import match_on_grid
from framework.types import Features, Masks
from matchers.cycle_argmax import CycleArgmax


def test_features_are_the_previous_steps_blocks_after_the_upsampler(sd1):
    """Hooks of our own on up_blocks 1 and 2, then resize, joint PCA, concatenation, norm."""
    seen: dict[str, list] = {"1": [], "2": []}
    hooks = [
        sd1.unet.up_blocks[int(name)].register_forward_hook(
            lambda module, args, out, name=name: seen[name].append(out.clone())
        )
        for name in seen
    ]
    try:
        sampler = tiny_sampler(sd1, extractor=DiffusionFeatures(pca=20), cache=NoCache())
        sampler.reference()
        for outputs in seen.values():
            outputs.clear()
        trace = sampler("a photo of a {}", output_type="latent", return_trace=True).trace
    finally:
        for hook in hooks:
            hook.remove()
    for step in (1, 2):
        halves = []
        for half in (0, 1):
            parts = []
            for name in ("2", "1"):  # finest first
                pair = []
                for call in (2 * step - 1, 2 * step - 2):  # the reference comes first
                    grid = seen[name][call][half : half + 1].permute(0, 2, 3, 1)
                    assert grid.shape[1] == {"1": 8, "2": 16}[name]
                    pair.append(resize_grid(grid, 16, 16, align_corners=True))
                parts.append(joint_pca(*pair, 10))
            target = torch.cat([part[0] for part in parts], dim=-1)
            halves.append(torch.nn.functional.normalize(target, dim=-1))
        torch.testing.assert_close(
            trace[step].features.target, torch.cat(halves), atol=1e-4, rtol=1e-3
        )


def test_descriptors_are_resized_and_normalised_again_for_coarser_layers():
    torch.manual_seed(0)
    target, reference = torch.nn.functional.normalize(torch.randn(2, 1, 8, 8, 6), dim=-1)
    seen = []

    class Watching(CycleArgmax):
        def match(self, target, reference, masks):
            seen.append(target)
            return super().match(target, reference, masks)

    ones = torch.ones(1, 4, 4)
    match_on_grid(Features(target, reference), Masks(ones, ones), (4, 4), Watching())
    expected = target.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4))
    torch.testing.assert_close(seen[0], torch.nn.functional.normalize(expected, dim=-1))


def test_without_pca_and_from_one_block(sd1):
    extractor = DiffusionFeatures(blocks=[r"up_blocks\.1\.resnets\.2"], pca=None)
    trace = tiny_sampler(sd1, extractor=extractor)(
        "a photo of a {}", num_inference_steps=2, return_trace=True
    ).trace
    assert trace[1].features.target.shape == (2, 4, 4, 64)
    attention = DiffusionFeatures(blocks=[r"up_blocks\.2\.attentions\.1"])  # returns a tuple
    trace = tiny_sampler(sd1, extractor=attention)(
        "a photo of a {}", num_inference_steps=2, return_trace=True
    ).trace
    assert trace[1].features.target.shape == (2, 8, 8, 64)


def test_the_current_step_is_described_before_anything_is_injected(sd1):
    """Descriptors of step t are those of an evaluation without injection from the same latents."""
    prompt, options = "a photo of a {}", {"output_type": "latent", "return_trace": True}
    calls, extractor = [], DiffusionFeatures(pca=None, step="current")
    hook = sd1.unet.register_forward_hook(lambda *args: calls.append(1))
    try:
        sampler = tiny_sampler(sd1, extractor=extractor, cache=NoCache())
        sampler.reference()
        calls.clear()
        trace = sampler(prompt, **options).trace
    finally:
        hook.remove()
    assert len(calls) == 7  # targets in three steps, in two of them twice; the reference in two
    assert trace[0].features is None
    # In the first matched step the latents are those of the plain pipeline.
    injector = AppearanceMatching(layers=[r"up_blocks\.3\..*attn1"], start_step=2)
    later = tiny_sampler(sd1, extractor=DiffusionFeatures(pca=None), injector=injector)
    expected = later(prompt, **options).trace[2].features  # of step 1, before any injection
    torch.testing.assert_close(trace[1].features.target, expected.target)
    torch.testing.assert_close(trace[1].features.reference, expected.reference)
    assert torch.isfinite(trace[2].latents).all()


def test_looking_ahead_leaves_the_masks_alone(sd1):
    prompt, options = "a photo of a {}", {"output_type": "latent", "return_trace": True}
    injector = AppearanceMatching(layers=[r"up_blocks\.3\..*attn1"], start_step=1)
    masks = []
    for step in ("previous", "current"):
        extractor = DiffusionFeatures(pca=32, step=step)
        sampler = tiny_sampler(sd1, extractor=extractor, injector=injector)
        masks.append(sampler(prompt, **options).trace[1].masks)
    torch.testing.assert_close(masks[0].target, masks[1].target)
    torch.testing.assert_close(masks[0].reference, masks[1].reference)
