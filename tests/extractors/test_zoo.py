"""dift, dino, fused: what is particular to each."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import tiny_sampler

from framework.config.page import load_config
from framework.errors import UserError
from framework.extractors.diffusion import DiffusionFeatures
from framework.extractors.dift import Dift
from framework.extractors.dino import Dino
from framework.extractors.fused import Fused
from framework.extractors.vit import DenseEncoder, load_encoder
from framework.interfaces.step import StepOutputs
from framework.sampling.cache import NoCache
from framework.types import Layout, Reference

PROMPT = "a photo of a {}"
OPTIONS = {"output_type": "latent", "return_trace": True}


def step(targets=2, halves=2, picture=None, index=1):
    """A step whose latents are pictures already, so that decoding changes nothing."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    clean = torch.rand(halves * targets, 3, 64, 64, generator=generator) * 2 - 1
    return StepOutputs(
        index=index,
        timestep=500,
        layout=Layout(halves, targets),
        reference=Reference(reference, reference, reference[None]),
        target_clean=clean if picture is None else picture,
        reference_clean=reference.repeat(halves, 1, 1, 1),
        decode=lambda latents: latents,
    )


# ------------------------------------------------------------------ dino


@pytest.fixture(scope="module")
def backbone():
    return SimpleNamespace(device=torch.device("cpu"))  # nothing else is asked for


def tiny_folder(path, architecture, **arguments):
    """A folder as timm saves it, of a small network of a real class."""
    arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 64} | arguments
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0, **arguments)
    save_file(model.state_dict(), path / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.2] * 3},
    }
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("architecture", "arguments", "patch"),
    [
        ("vit_small_patch16_224", {}, 16),  # DINO
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, 14),  # DINOv2, registers
        ("vit_small_patch16_dinov3", {"num_heads": 1, "embed_dim": 32}, 16),  # DINOv3, class Eva
    ],
)
def test_families_at_other_sizes(tmp_path, backbone, architecture, arguments, patch):
    folder = tiny_folder(tmp_path, architecture, **arguments)
    dino = Dino(model=folder, layers=[0, -1], size=6 * patch)
    with dino.attach(backbone):
        features = dino(step())
    assert features.target.shape[:3] == (4, 6, 6)
    assert features.target.shape[-1] == 2 * arguments.get("embed_dim", 24)


def test_a_network_of_one_size_sees_pictures_at_that_size(tmp_path, backbone):
    folder = tiny_folder(tmp_path, "cait_xxs24_224", img_size=48)
    dino = Dino(model=folder)
    with dino.attach(backbone):
        assert dino(step()).target.shape == (4, 3, 3, 24)
    with pytest.raises(UserError, match="size is 96, and this Cait takes"):
        Dino(model=folder, size=96).encoder  # noqa: B018


def test_layers_of_several_grids_are_brought_to_the_finest(tmp_path, backbone):
    stages = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1), "window_size": 4}
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=64, **stages)
    dino = Dino(layers=[0, 1])
    dino._encoder = DenseEncoder(model, [0, 1], None)
    with dino.attach(backbone):
        features = dino(step())
    assert features.target.shape == (4, 16, 16, 36)
    torch.testing.assert_close(features.target.norm(dim=-1), torch.ones(4, 16, 16))


def test_a_network_without_grids_of_tokens_is_named(backbone):
    model = timm.create_model("hiera_tiny_224", num_classes=0, embed_dim=12, stages=(1, 1, 1, 1))
    encoder = DenseEncoder(model, [-1], None)
    with pytest.raises(UserError, match="is a Hiera, which gives no grids of tokens"):
        encoder(torch.zeros(1, 3, 64, 64))


def test_a_file_of_weights(tmp_path, backbone):
    torch.manual_seed(0)
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pth")
    grids = []
    for suffix in ("safetensors", "pth"):
        path = str(tmp_path / f"weights.{suffix}")
        dino = Dino(model=path, architecture="test_vit")
        with dino.attach(backbone):
            grids.append(dino(step()).target)
    assert grids[0].shape == (4, 4, 4, 64) and torch.equal(*grids)


def test_files_that_are_more_than_weights_are_refused(tmp_path, backbone):
    torch.save({"x": StepOutputs}, tmp_path / "code.pth")
    (tmp_path / "half.safetensors").write_bytes(b"nothing")
    for name in ("code.pth", "half.safetensors"):
        with pytest.raises(UserError, match="cannot be read as weights alone"):
            load_encoder(str(tmp_path / name), "test_vit", [-1], None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "no/such/folder/"}, "cannot be loaded"),
        ({"model": "./nothing"}, "does not exist"),
        ({"model": "vit_smal_patch16_224"}, "cannot be loaded"),
        ({"layers": [17]}, "the model has 6 layers"),
    ],
)
def test_models_that_are_not_there(backbone, options, message):
    with pytest.raises(UserError, match=message), Dino(**options).attach(backbone):
        pass


def test_the_same_picture_has_the_same_descriptors(backbone):
    own = step()
    picture = own.reference.image.repeat(4, 1, 1, 1)
    dino = Dino(size=128)
    with dino.attach(backbone):
        features = dino(step(picture=picture))
    torch.testing.assert_close(features.target, features.reference, atol=1e-4, rtol=0)


def test_it_looks_every_so_many_steps(backbone):
    dino = Dino(every=2)
    decoded = []

    def look(index, seed):
        shown = step(index=index, picture=torch.rand(4, 3, 64, 64))
        object.__setattr__(shown, "decode", lambda latents: decoded.append(index) or latents)
        return dino(shown).target

    with dino.attach(backbone):
        first, second, third = (look(index, index) for index in (3, 4, 5))
    assert decoded == [3, 5] and torch.equal(first, second) and not torch.equal(first, third)
    with dino.attach(backbone):  # another call starts afresh
        look(6, 0)
    assert decoded == [3, 5, 6]


# ------------------------------------------------------------------ dift


def test_dift_does_not_depend_on_the_step_it_is_asked_in(sd1):
    """The reference's descriptors are those of its clean latent at one level, in every step."""
    sampler = tiny_sampler(sd1, extractor=Dift(ensemble=2))
    trace = sampler(PROMPT, num_inference_steps=4, **OPTIONS).trace
    first, last = trace[1].features, trace[3].features
    assert torch.equal(first.reference, last.reference)
    assert not torch.equal(first.target, last.target)


def test_dift_counts(sd1):
    """Two noises: two more evaluations in each step that is described, the last is not."""
    rows = []
    hook = sd1.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        sampler = tiny_sampler(sd1, extractor=Dift(ensemble=2), cache=NoCache())
        sampler.reference()
        rows.clear()
        sampler(PROMPT, **OPTIONS)
    finally:
        hook.remove()
    assert rows == [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]  # the reference is looked at once


def test_dift_refuses_a_time_the_model_has_not(sd1):
    with pytest.raises(UserError, match=r"extractor\.timestep is 1000"):
        tiny_sampler(sd1, extractor=Dift(timestep=1000))(PROMPT)


# ------------------------------------------------------------------ fused


def similarity(features):
    return features.target.flatten(1, 2) @ features.reference.flatten(1, 2).mT


def test_the_similarity_is_the_weighted_mean(sd1):
    """Of extractors on one grid."""
    blocks = {"blocks": [r"up_blocks\.1"], "pca": None}
    one = DiffusionFeatures(**blocks)
    two = DiffusionFeatures(blocks=[r"up_blocks\.1\.resnets\.0"], pca=None)
    fused = Fused(
        extractors={
            "a": {"name": "diffusion", "weight": 3.0, **blocks},
            "b": {"name": "dift", "weight": 0.0},
            "c": two,
        }
    )
    assert fused.weights == [3.0, 1.0]
    found = [
        tiny_sampler(sd1, extractor=each)(PROMPT, num_inference_steps=2, **OPTIONS)
        .trace[1]
        .features
        for each in (fused, one)
    ]
    assert found[0].target.shape[1:3] == found[1].target.shape[1:3]
    assert found[0].target.shape[-1] == 128
    whole, part = (similarity(each) for each in found)
    other = (4 * whole - 3 * part).clamp(-1.01, 1.01)
    torch.testing.assert_close(3 * part + other, 4 * whole, atol=1e-4, rtol=0)


def test_fused_from_a_configuration():
    config = load_config(
        None,
        [
            "extractor=fused",
            "extractor.extractors.dino.weight=0.5",
            "extractor.extractors.dino.size=64",
            "extractor.extractors.fine.name=diffusion",
            "extractor.extractors.fine.pca=16",
        ],
    )
    fused = config.part("extractor")
    assert [type(each) for each in fused.inner] == [Dino, DiffusionFeatures]
    assert fused.weights == [0.5, 1.0] and fused.inner[0].config.size == 64
    removed = load_config(config, ["extractor.extractors.dino=null"]).part("extractor")
    assert [each.config.pca for each in removed.inner] == [16]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "extractor.extractors.dino.wieght=1",
            r"'extractor\.extractors\.dino\.wieght'\. Did you mean 'weight'.*weight, model",
        ),
        ("extractor.extractors.dinoo.size=32", "Unknown extractor 'dinoo'.*Did you mean 'dino'"),
        ("extractor.extractors.dino.weight=-1", r"extractor\.extractors\.dino\.weight is -1"),
        ("extractor.extractors=[dino]", "expected a mapping"),
    ],
)
def test_fused_refuses(override, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["extractor=fused", override])


def test_fused_needs_something_and_one_step():
    with pytest.raises(UserError, match="extractors is empty"):
        Fused(extractors={"dino": {"weight": 0}})
    both = {"a": {"name": "diffusion"}, "b": {"name": "diffusion", "step": "current"}}
    with pytest.raises(UserError, match="one value of step"):
        Fused(extractors=both)
    assert Fused(extractors={"a": both["b"], "dino": {}}).current
