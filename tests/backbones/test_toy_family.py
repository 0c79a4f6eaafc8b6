"""A family of somebody else's module: joint attention, flow matching, packed latents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_family import JointAttention, Toy, toy_pipeline

from framework.backbones.choose import HOW_TO_ADD, backbone_of, family_of
from framework.cli.main import main
from framework.composer import compose
from framework.errors import UserError
from framework.interfaces import BACKBONES, Denoiser
from framework.interfaces.layers import LayerCall
from framework.trajectories.ddim_inversion import DDIMInversion

HERE = Path(__file__).parent
OPTIONS = [
    "plugins=[toy_family]",
    "concept.class_name=dog",
    "concept.placeholder=''",
    "extractor.blocks=['blocks\\.0']",
    "extractor.pca=16",
    "mask.layers=['blocks\\.0\\.attn']",
    "mask.resolution=8",
    "injector.layers=['blocks\\.[12]\\.attn']",
    "injector.start_step=1",
    "sampler.num_inference_steps=3",
    "sampler.scheduler=keep",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint and a photograph."""
    folder = tmp_path_factory.mktemp("toy")
    toy_pipeline().save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    return folder


@pytest.fixture
def arguments(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [f"model.path={place / 'model'}", f"concept.path={place / 'photos'}", *OPTIONS]


def test_it_is_found_by_its_pipeline(place):
    assert isinstance(backbone_of(toy_pipeline()), Toy) and BACKBONES.get("toy") is Toy
    index = json.loads((place / "model" / "model_index.json").read_text())
    assert family_of(index, "it") is Toy


def test_without_its_module_the_folder_is_refused_by_name(place, tmp_path):
    words = ["sample", f"model.path={place / 'model'}", "concept.name=taxi_car", "--output", "out"]
    code = f"from framework.cli.main import main; raise SystemExit(main({words!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(HERE.parents[1]), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "holds a ToyPipeline, which is not supported" in said
    assert HOW_TO_ADD in said and "Stable Diffusion XL" in said


def test_the_loop_without_injection_is_eulers_method(arguments):
    sampler = compose(None, overrides=[*arguments, "injector=none"])
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    ours = sampler("a {} in snow", latents=noise, output_type="latent", guidance_scale=1.0).images
    model, latents = sampler.model, noise
    condition, _ = model.encode_prompt("a dog in snow", 128, 128)
    scheduler = model.pipe.scheduler
    scheduler.set_timesteps(3)
    levels = scheduler.sigmas.tolist()
    with torch.no_grad():
        for now, then in zip(levels, levels[1:], strict=False):
            velocity = model.denoise(latents, now * 1000, condition)
            latents = latents + (then - now) * velocity
    torch.testing.assert_close(ours, latents)


@pytest.mark.parametrize(
    "change",
    [
        [],
        ["injector=key_value_concat"],
        ["trajectory=forward_noise"],
        ["guidance=semantic_matching", "guidance.start_step=1"],
        ["extractor.step=current"],
    ],
    ids=lambda change: change[0] if change else "default",
)
def test_every_part_acts(arguments, change):
    options = [*arguments, *change]
    options += ["injector.layers=['blocks\\.[12]\\.attn']", "injector.start_step=1"]
    sampler = compose(None, overrides=options)
    drawn = sampler("a {} in snow", seed=1, output_type="latent", return_trace=True)
    plain = compose(None, overrides=[*arguments, "injector=none"])
    assert drawn.images.isfinite().all()
    baseline = plain("a {} in snow", seed=1, output_type="latent").images
    assert not torch.equal(drawn.images, baseline)
    assert drawn.trace[2].matched
    if sampler.parts.injector.needs_correspondence:
        assert drawn.trace[2].masks.target.shape[1:] == (8, 8)
    layers = [m for m in sampler.model.network.modules() if isinstance(m, JointAttention)]
    assert all(layer.decide is LayerCall.plain and not layer.observers for layer in layers)


def test_inversion_at_flow_levels_comes_back(arguments):
    model = backbone_of(toy_pipeline())
    with torch.no_grad():
        for weight in model.network.leave.parameters():
            weight.mul_(0.02)  # as smooth a path as a trained model's
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(model, model.schedule(20, (128, 128)), 128, 128)
    latents, condition = DDIMInversion()(denoiser, clean)[0], denoiser.condition("")
    for time, moment in zip(denoiser.timesteps, denoiser.scheduler.timesteps, strict=True):
        with torch.no_grad():
            output = model.denoise(latents, time, condition)
        latents = denoiser.scheduler.step(output, moment, latents, return_dict=False)[0]
    assert (latents - clean).abs().max() < 0.02


def test_sample(arguments, tmp_path):
    words = ["sample", *arguments, "--prompt", "a photo of a {}", "--output", "out", "--baseline"]
    assert main(words) == 0
    pictures = [
        np.asarray(Image.open(tmp_path / "out" / f"{name}000-0.png")) for name in ("", "baseline/")
    ]
    assert pictures[0].shape == (128, 128, 3) and (pictures[0] != pictures[1]).any()


def test_match_bench(arguments, place, tmp_path):
    words = ["match-bench", *arguments, "--images", str(place / "photos"), "--class-name", "dog"]
    assert main([*words, "--pairs", "2", "--steps", "2", "--output", "out"]) == 0
    records = json.loads((tmp_path / "out" / "results.json").read_text())
    assert records


def test_wrong_layers_and_schedulers_are_refused_in_its_words(arguments):
    for change, words in (
        ("injector.layers=['nowhere']", "no layer of this model matches 'nowhere'.*blocks.0.attn"),
        ("extractor.blocks=['transformer.*']", "extractor.blocks: no layer of this model"),
        ("sampler.scheduler=DDIMScheduler", "this family takes 'keep'"),
        ("sampler.height=120", "expected multiples of 16"),
    ):
        with pytest.raises(UserError, match=words):
            compose(None, overrides=[*arguments, change])
