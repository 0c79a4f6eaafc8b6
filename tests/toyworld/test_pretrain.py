"""Pre-training: the tokenizer, two steps and a resumption of every stage, the exported folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from omegaconf import OmegaConf
from transformers import AutoModel, CLIPTokenizer

from framework.errors import UserError
from framework.toyworld.captions import VOCABULARY
from framework.toyworld.dataset import RenderedWorld, training_scene
from framework.toyworld.pretrain import (
    cli,
    clip,
    clip_stage,
    devices,
    evaluate,
    identity,
    models,
    muon,
    prompts,
    recipe,
)
from framework.toyworld.pretrain.data import warp
from framework.toyworld.pretrain.stage import load_checkpoint
from framework.toyworld.pretrain.tokenizer import UNKNOWN, build_tokenizer, is_known

OBJECTS, VIEWS = 8, 2
SMALL = {
    "vae": ["channels=[16,16,16]", "batch_size=2", "crop=32"],
    "text": ["batch_size=4", "tower=64", "layers=1", "projection=16", "channels=[4,4,4,8]"],
    "clip": ["batch_size=4", "channels=[4,4,4,8]", "decoded=3"],
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
    model = clip.build_clip(tokenizer, width=64, layers=1, channels=(4, 4, 4, 8)).eval()
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
    assert AutoModel.from_pretrained(tmp_path / "clip").config.projection_dim == 16
    encoder = models.load_identity(tmp_path / "identity")
    assert encoder(torch.zeros(1, 3, 128, 128)).shape == (1, 64)


def test_two_folders_are_measured_side_by_side(
    data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one judge; the table and the pictures are left in the working folder."""
    views = evaluate.concept_views
    monkeypatch.setattr(evaluate, "concept_views", lambda views_=2, **_: views(2))
    command("probe", data, work)
    target = tmp_path / "shipped"
    cli.main(["export", "--work", str(work), "--target", str(target)])
    command(
        "evaluate",
        data,
        tmp_path,
        "--target",
        str(target),
        *("count=4", "steps=1"),
        *("distance=8", f"before={target}"),
    )
    table = json.loads((tmp_path / "quality.json").read_text())
    assert str(tmp_path) not in json.dumps(table)
    assert table["models"]["before"] == table["models"]["after"]
    after = table["models"]["after"]
    assert after["text_to_image"]["category"]["values"] == 4
    assert after["distance"]["values"] == 8
    assert {"concepts", "same_category"} == set(after["identity"])
    assert "accessory, by the probe" in (tmp_path / "quality.md").read_text()
    assert (tmp_path / "text_to_image_before.png").is_file()


def test_a_budget_in_pictures(data: Path, work: Path, tmp_path: Path) -> None:
    """Ends after as many pictures, and goes on with more."""
    for budget, seen in ((6, 6), (9, 10)):
        command("vae", data, tmp_path, f"pictures={budget}", "optimizer=muon", *SMALL["vae"])
        state = load_checkpoint(tmp_path / "vae" / "last.ckpt")
        assert (state["seen"], state["global_step"]) == (seen, seen // 2)


def test_vision_tower_learns_beside_frozen_text(data: Path, work: Path, tmp_path: Path) -> None:
    """From an exported folder the text tower stays as it is, the vision tower moves."""
    cli.main(["export", "--work", str(work), "--target", str(tmp_path / "shipped")])
    other = tmp_path / "work"
    cli.main(["restore", "--work", str(other), "--target", str(tmp_path / "shipped")])
    before = models.load_clip(other).state_dict()
    command("clip", data, other, *SMALL["clip"], "max_steps=2", "fresh=false")
    after = models.load_clip(other).state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(name.startswith(("text_", "logit")) for name in moved)
    state = load_checkpoint(other / "clip" / "last.ckpt")["state_dict"]
    assert "heads.dense.weight" in state


def test_average_has_the_statistics_of_the_training(data: Path, work: Path) -> None:
    """Weights are averaged; the statistics of batches are those of the training."""
    state = load_checkpoint(work / "clip" / "last.ckpt")["state_dict"]
    name = next(key for key in state if key.startswith("network.") and "running_mean" in key)
    assert torch.equal(state[name.replace("network.", "average.", 1)], state[name])
    kernel = "vision_model.timm_model.stages.0.blocks.0.conv1.weight"
    assert not torch.equal(state[f"average.{kernel}"], state[f"network.{kernel}"])


def test_a_new_vision_tower_leaves_the_text_as_it_is() -> None:
    """Also its scale; the pictures' tower has the new shape."""
    old = clip.build_clip(build_tokenizer(["a"]), width=64, layers=1, channels=(4, 4, 4, 8))
    old.logit_scale.data.fill_(1.5)
    new = clip.with_new_vision(old, (4, 8, 8, 16))
    ids = torch.tensor([[0, 2, 1]])
    torch.testing.assert_close(clip.text_features(new, ids), clip.text_features(old, ids))
    assert float(new.logit_scale) == pytest.approx(1.5)
    assert new.visual_projection.in_features == 32
    assert clip.image_features(new, torch.zeros(1, 3, 128, 128)).shape == (1, 128)


def test_mirrored_pictures_keep_their_captions_true(data: Path) -> None:
    """No picture is mirrored whose caption says left or right; masks follow their pictures."""
    world = RenderedWorld(data / "train")
    config = clip_stage.CLIPStageConfig(batch_size=64, warp=0.0, brightness=0.0, blur=0.0)
    batch = clip_stage.picture_batches(world, config)(np.random.default_rng(0))
    mirrored = 0
    for row, index in enumerate(batch["indices"].tolist()):
        plain = torch.from_numpy(world.images[index].copy()).permute(2, 0, 1) / 127.5 - 1
        mask = torch.from_numpy(world.masks[index].copy())[None].float()
        same = torch.allclose(batch["pictures"][row], plain, atol=1e-3)
        mirrored += not same
        if not same:
            assert world.scenes[index].condition not in ("left", "right")
            torch.testing.assert_close(batch["pictures"][row], plain.flip(-1), atol=1e-3, rtol=0)
        expected = mask if same else mask.flip(-1)
        torch.testing.assert_close(batch["masks"][row], expected, atol=1e-3, rtol=0)
    assert 0 < mirrored < 64


def test_decoded_pictures_stand_at_their_places(data: Path, work: Path, tmp_path: Path) -> None:
    """Kept in a file; a batch's first pictures are of them, with the labels of their scenes."""
    world = RenderedWorld(data / "train")
    path = tmp_path / "decoded.npz"
    found = clip_stage.decode_some(models.load_vae(work), world, 3, path)
    again = clip_stage.decode_some(models.load_vae(work), world, 3, path)
    assert found[1].shape == (3, 128, 128, 3)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["decoded.npz"]
    config = clip_stage.CLIPStageConfig(
        batch_size=8, warp=0.0, brightness=0.0, blur=0.0, decoded_share=0.5
    )
    batch = clip_stage.picture_batches(world, config, found)(np.random.default_rng(0))
    for row in range(4):
        at = found[0].tolist().index(int(batch["indices"][row]))
        shown = torch.from_numpy(found[1][at]).permute(2, 0, 1) / 127.5 - 1
        picture = batch["pictures"][row]
        assert any(torch.allclose(picture, x, atol=1e-3) for x in (shown, shown.flip(-1)))


def test_either_colour_of_a_pattern_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """``colour_either`` is right where one of the two colours is chosen."""
    tokenizer = build_tokenizer(VOCABULARY)
    model = clip.build_clip(tokenizer, width=64, layers=1, channels=(4, 4, 4, 8)).eval()
    chosen = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3]), 11).float()
    scores = {"category": chosen, "place": chosen, "colour": chosen}
    monkeypatch.setattr(clip, "class_scores", lambda *_: scores)
    labels = {"category": torch.tensor([0, 1, 0, 0]), "place": torch.tensor([0, 1, 2, 3])}
    labels |= {"colour": torch.tensor([0, 5, 5, 5]), "colour2": torch.tensor([0, 1, 5, 3])}
    found = clip.zero_shot(model, tokenizer, torch.zeros(4, 3, 32, 32), labels)
    assert found == {"category": 0.5, "place": 1.0, "colour": 0.25, "colour_either": 0.75}


def test_warped_masks_follow_their_pictures() -> None:
    """A picture that shows its own mask still does; at strength 0 nothing moves."""
    torch.manual_seed(0)
    masks = (torch.rand(4, 1, 8, 8) > 0.5).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    pictures = masks.expand(-1, 3, -1, -1)
    moved, kept = warp(pictures, masks, 1.0, np.random.default_rng(0))
    torch.testing.assert_close(moved[:, :1].clamp(0, 1), kept)
    assert float((kept - masks).abs().mean()) > 0.05
    still, _ = warp(pictures, masks, 0.0, np.random.default_rng(0))
    torch.testing.assert_close(still, pictures, atol=1e-4, rtol=0)


def test_muon_makes_singular_values_alike() -> None:
    """Its update has about equal singular values; other groups follow AdamW exactly."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(muon.orthogonalised(torch.randn(2, 6, 30)))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    first = muon.Muon([{"params": [ours]}], 0.1, 0.01)
    second = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01, betas=(0.9, 0.99))
    kernel = torch.nn.Parameter(torch.zeros(4, 2, 3, 3))
    first.add_param_group({"params": [kernel], "muon": True})
    for _ in range(3):
        for parameter, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            (parameter * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
            if parameter is ours:
                kernel.grad = torch.randn_like(kernel)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
    assert kernel.detach().abs().max() > 0


def test_precision_is_chosen_by_what_is_fast() -> None:
    """Always half on an accelerator; on a CPU only where a measurement says so."""
    with devices.mixed_precision("cpu"):
        assert torch.is_autocast_enabled("cpu") == devices.cpu_bfloat16_is_fast()
    assert not torch.is_autocast_enabled("cpu")


def test_identity_encoder_starts_from_the_prepared_tower(data: Path) -> None:
    """Its class token is that of the tower in transformers' form."""
    world = RenderedWorld(data / "train")
    config = identity.IdentityConfig(width=64, layers=2)
    tower = identity.prepared_tower(config, world).eval()
    encoder = identity.build_identity(config).eval()
    encoder.load_state_dict(identity.from_transformers(tower.state_dict()))
    pictures = torch.randn(2, 3, 128, 128)
    expected = tower(pictures).pooler_output
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


@pytest.mark.parametrize("stage", ["identity", "unet", "vae"])
def test_muon_trains_what_lies_inside(stage: str, data: Path, work: Path, tmp_path: Path) -> None:
    """First and last layers, tokens, vectors and heads are AdamW's."""
    shutil.copytree(work / "models", tmp_path / "models")
    command(stage, data, tmp_path, "max_steps=1", "optimizer=muon", *SMALL[stage])
    folder = tmp_path / ("unet_64" if stage == "unet" else stage)
    groups = load_checkpoint(folder / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert [group["muon"] for group in groups] == [True, False, False]
    assert all(len(group["params"]) for group in groups)


def test_an_unknown_optimizer_is_refused() -> None:
    """Before anything is trained."""
    with pytest.raises(UserError, match="'lion'"):
        muon.build_optimizer("lion", [], [], 0.1, 0.1, 0.0)


def test_the_recipe_runs_in_one_go_and_goes_on(tmp_path: Path) -> None:
    """From nothing to an exported folder; a second call trains nothing more."""
    sets = {"train": {"objects": 3, "views": 2, "seed": 0}, "val": {"objects": 2, "views": 2}}
    steps = [
        {"stage": name, "pictures": 2}
        | OmegaConf.to_container(OmegaConf.from_dotlist([o for o in options if "sheet" not in o]))
        for name, options in SMALL.items()
    ]
    plan = {"render": sets, "stages": [*steps, {"stage": "probe"}]}
    target = recipe.run(plan, tmp_path / "data", tmp_path / "work")
    names = {"clip", "identity", "probe", "text_encoder", "tokenizer", "unet", "vae"}
    assert names <= {path.name for path in target.iterdir()}
    before = load_checkpoint(tmp_path / "work" / "unet_64" / "last.ckpt")["seen"]
    recipe.run(plan, tmp_path / "data", tmp_path / "work")
    assert load_checkpoint(tmp_path / "work" / "unet_64" / "last.ckpt")["seen"] == before
