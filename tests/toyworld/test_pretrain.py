"""Pre-training: the tokenizer, two steps and a resumption of every stage, the exported folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from framework.toyworld.captions import VOCABULARY
from framework.toyworld.dataset import RenderedWorld, training_scene
from framework.toyworld.pretrain import cli, clip, devices, distil, identity, models, prompts
from framework.toyworld.pretrain.stage import averaged_weights, load_checkpoint
from framework.toyworld.pretrain.teacher import Teacher, load_teacher
from framework.toyworld.pretrain.tokenizer import UNKNOWN, build_tokenizer, is_known

OBJECTS, VIEWS = 8, 2
SMALL = {
    "vae": ["channels=[16,16,16]", "batch_size=2", "crop=32"],
    "clip": ["batch_size=4", "width=64", "vision_layers=1", "text_layers=1", "projection=16"],
    "identity": ["batch_size=2", "width=64", "layers=1"],
    "unet": ["channels=[16,16,16]", "batch_size=2", "size=64", "sheet_minutes=100"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for rendered sets: noise, with scenes that have captions."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    count = OBJECTS * VIEWS
    for name in ("train", "val"):
        (folder / name).mkdir()
        images = rng.integers(0, 255, (count, 16, 16, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        np.save(folder / name / "images.npy", images)
        np.save(folder / name / "masks.npy", (images[..., 0] > 128).astype(np.uint8))
        records = [
            training_scene(0, i, k).to_dict() | {"object_id": i}
            for i in range(OBJECTS)
            for k in range(VIEWS)
        ]
        (folder / name / "scenes.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return folder


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which every stage has made two steps."""
    folder = tmp_path_factory.mktemp("work")
    for name, options in SMALL.items():
        command(name, data, folder, "max_steps=2", *options)
    return folder


def command(stage: str, data: Path, work: Path, *options: str) -> None:
    """Runs a stage as the command line does."""
    cli.main([stage, "--data", str(data), "--work", str(work), *options])


def test_every_word_is_one_token(tmp_path: Path) -> None:
    """Also after a round trip; unknown words are told apart."""
    build_tokenizer(VOCABULARY).save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(is_known(tokenizer, word) for word in [*VOCABULARY, ",", "Mug"])
    assert not any(is_known(tokenizer, word) for word in ["mugs", "xylophone", "7", "redmug", "?"])
    assert tokenizer.model_max_length == 32
    assert tokenizer("?", add_special_tokens=False).input_ids == [tokenizer.unk_token_id]
    assert tokenizer.unk_token == UNKNOWN
    ids = tokenizer("a photo of a red mug, on the grass").input_ids
    assert len(ids) == 2 + 10


def test_tokenizer_takes_placeholders() -> None:
    """Textual inversion's tokens are one token each and known."""
    tokenizer = build_tokenizer(["a", "mug"])
    assert tokenizer.add_tokens(["<x>"]) == 1
    assert is_known(tokenizer, "<x>")
    assert len(tokenizer("a <x> mug").input_ids) == 5


def test_text_is_pooled_at_the_first_end_token() -> None:
    """Padding, and tokens added later, do not change the pooled text."""
    tokenizer = build_tokenizer(VOCABULARY)
    config = clip.CLIPStageConfig(width=64, vision_layers=1, text_layers=1)
    model = clip.build_clip(tokenizer, config).eval()
    texts = ["a photo of a mug", "a photo of a red mug, on the grass"]
    short = clip.text_features(model, prompts.token_ids(tokenizer, texts, 0))
    long = clip.text_features(model, prompts.token_ids(tokenizer, texts))
    torch.testing.assert_close(short, long)


@pytest.mark.parametrize("stage", SMALL)
def test_stage_resumes(stage: str, data: Path, work: Path) -> None:
    """The same command with a larger budget goes on from the checkpoint."""
    folder = work / ("unet_64" if stage == "unet" else stage)
    steps = load_checkpoint(folder / "last.ckpt")["global_step"]
    command(stage, data, work, f"max_steps={steps + 2}", *SMALL[stage])
    state = load_checkpoint(folder / "last.ckpt")
    assert state["global_step"] == steps + 2
    assert state["elapsed"] > 0


def test_export_loads_as_standard_folders(work: Path, tmp_path: Path) -> None:
    """``from_pretrained`` and ``local-dir:`` are all the loading code."""
    cli.main(["export", "--work", str(work), "--target", str(tmp_path)])
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    images = pipeline(
        "a red mug", num_inference_steps=2, output_type="np", height=64, width=64
    ).images
    assert images.shape == (1, 64, 64, 3)
    assert pipeline.scheduler.config.clip_sample is False
    assert CLIPModel.from_pretrained(tmp_path / "clip").config.projection_dim == 16
    encoder = models.load_identity(tmp_path / "identity")
    assert encoder(torch.zeros(1, 3, 128, 128)).shape == (1, 64)


def test_vision_tower_learns_from_a_teacher(data: Path, work: Path, tmp_path: Path) -> None:
    """The text tower stays as it is; the vision tower moves; the heads are not kept."""
    cli.main(["export", "--work", str(work), "--target", str(tmp_path / "shipped")])
    other = tmp_path / "work"
    cli.main(["restore", "--work", str(other), "--target", str(tmp_path / "shipped")])
    before = models.load_clip(other).state_dict()
    command("teacher", data, other, "max_steps=2", "channels=[4,4,8]", "batch_size=4")
    options = [*SMALL["clip"], "max_steps=2", "vision_only=true", "fresh=false", "lr=0.01"]
    command("clip", data, other, *options)
    after = models.load_clip(other).state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(name.startswith("text_") for name in moved)
    state = load_checkpoint(other / "clip_vision" / "last.ckpt")["state_dict"]
    assert "heads.distillation.hints.0.weight" in state
    assert not any("teacher" in name for name in state)


def test_loaded_teacher_is_the_average_with_its_statistics(data: Path, work: Path) -> None:
    """Weights are averaged; the statistics of batches are those of the training."""
    command("teacher", data, work, "max_steps=3", "channels=[4,4,8]", "batch_size=4")
    path = work / "teacher" / "last.ckpt"
    teacher, state = load_teacher(path), load_checkpoint(path)["state_dict"]
    name = "stem.1.running_mean"
    assert torch.equal(teacher.state_dict()[name], state[f"network.{name}"])
    assert not torch.equal(state["average.stem.0.weight"], state["network.stem.0.weight"])
    assert torch.equal(teacher.stem[0].weight, averaged_weights(path)["stem.0.weight"])


def test_hints_follow_the_teacher_at_every_patch() -> None:
    """Targets have zero mean and unit variance; a student that gives them has no loss."""
    torch.manual_seed(0)
    maps = torch.randn(3, 5, 8, 8) * 4 + 1
    target = distil.standardised(maps, 4)
    assert target.shape == (3, 16, 5)
    torch.testing.assert_close(target.mean(dim=(0, 1)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(dim=(0, 1)), torch.ones(5), atol=2e-3, rtol=0)
    teacher = Teacher((4, 6, 8), 16).eval()
    pictures = torch.randn(2, 3, 64, 64)
    embeddings, *maps = teacher(pictures)
    losses = distil.Distillation(teacher, 8, 3)
    hidden = [torch.zeros(2, 1 + 16, 8) for _ in range(4)]
    for head, at, value in zip(losses.hints, losses.at, maps, strict=True):
        torch.nn.init.zeros_(head.bias)
        head.weight.data = torch.eye(*head.weight.shape)
        hidden[at][:, 1:, : value.shape[1]] = distil.standardised(value, 4)
    follow, hints = losses(pictures, embeddings, hidden)
    assert float(follow.detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(hints.detach()) == pytest.approx(0.0, abs=1e-5)


def test_precision_is_chosen_by_what_is_fast() -> None:
    """Always half on an accelerator; on a CPU only where a measurement says so."""
    with devices.mixed_precision("cpu"):
        assert torch.is_autocast_enabled("cpu") == devices.cpu_bfloat16_is_fast()
    assert not torch.is_autocast_enabled("cpu")


def test_identity_encoder_starts_as_clip() -> None:
    """The class token of the fresh encoder is CLIP's."""
    tokenizer = build_tokenizer(["a"])
    config = clip.CLIPStageConfig(width=64, vision_layers=2, text_layers=1)
    model = clip.build_clip(tokenizer, config).eval()
    encoder = identity.build_identity(identity.IdentityConfig(width=64, layers=2), model).eval()
    pictures = torch.randn(2, 3, 128, 128)
    expected = model.vision_model(pictures).pooler_output
    torch.testing.assert_close(encoder(pictures), expected, atol=1e-3, rtol=1e-3)


def test_views_of_a_batch_belong_together(data: Path) -> None:
    """Row ``i`` and row ``B + i`` show one object; a batch has one category unless mixed."""
    world = RenderedWorld(data / "train")
    config = identity.IdentityConfig(batch_size=4, mixed=1.0, shift=0, brightness=0.0)
    batch = identity.view_batches(world, config)(np.random.default_rng(0))
    assert batch["pictures"].shape == (8, 3, 128, 128)
    shown = torch.from_numpy(world.images.reshape(len(world), -1).copy()).float() / 127.5 - 1
    flat = batch["pictures"].permute(0, 2, 3, 1).reshape(8, -1)
    found = world.object_ids[torch.cdist(flat, shown).argmin(1).numpy()]
    assert (found[:4] == found[4:]).all()


def test_retrieval_by_hand() -> None:
    """Equal features of an object's views are found; of different objects, never."""
    owners = np.array([0, 0, 1, 1])
    categories = np.zeros(4)
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert identity.retrieval(features, owners, categories) == 1.0
    assert identity.retrieval(features[[0, 2, 1, 3]], owners, categories) < 1.0
