from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_sd
from tiny_personal import draw, fingerprint, make_concept

from framework.backbones.choose import backbone_of
from framework.concepts.folders import read_concept_file
from framework.concepts.text import concept_positions
from framework.errors import UserError
from framework.training.data import ConceptBatches, cache_latents
from framework.training.objective import Objective
from personalizers.textual_inversion import TextualInversion

QUICK = {"steps": 4, "batch_size": 2, "resolution": 64, "checkpoint_every": 2}


def train(pipe, folder, concept=None, seed=0, **options):
    method = TextualInversion(**(QUICK | options))
    return method.train(pipe, concept or make_concept(), Path(folder), seed=seed)


def learned(path):
    return load_file(path)["<my-duck>"]


def test_training_leaves_the_pipeline_as_it_was(sd1, tmp_path):
    sd1.unet.train()
    try:
        before = fingerprint(sd1)
        path = train(sd1, tmp_path)
        assert fingerprint(sd1) == before
    finally:
        sd1.unet.eval()
    assert path == tmp_path / "learned_embeds.safetensors"
    assert read_concept_file(tmp_path) == {
        "class_name": "duck",
        "placeholder": "<my-duck>",
        "name": "my-duck",
    }
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert (tmp_path / "logs" / "from-000000").is_dir()


def test_rows_move_away_from_the_class_name(sd1, tmp_path):
    rows = learned(train(sd1, tmp_path))
    start = sd1.tokenizer("duck", add_special_tokens=False).input_ids
    table = sd1.text_encoder.get_input_embeddings().weight.detach()
    assert rows.shape == (1, 32)
    assert rows.dtype == torch.float32
    assert 0 < (rows[0] - table[start[0]]).abs().max() <= 4 * 5e-3 * 1.5


def test_same_seed_same_bytes(sd1, tmp_path):
    first = train(sd1, tmp_path / "a", seed=5).read_bytes()
    torch.manual_seed(99)
    assert train(sd1, tmp_path / "b", seed=5).read_bytes() == first
    assert train(sd1, tmp_path / "c", seed=6).read_bytes() != first


def test_training_lowers_the_loss(sd1, tmp_path):
    """On batches that were not trained on; the untrained model leaves little to learn, but some."""
    concept, model = make_concept(), backbone_of(sd1)
    batches = ConceptBatches(
        cache_latents(model, concept.images, 64, 64), ["a photo of a <my-duck> duck"], 4, 1000, 77
    )
    objective = Objective.of(sd1)

    def loss():
        with torch.no_grad():
            total = 0.0
            for step in range(3):
                batch = batches.batch(step)
                condition = model.encode_texts(batch.prompts, 64, 64)
                output = model.denoise(objective.noisy(batch), batch.timesteps, condition)
                total += float(objective.loss(output, batch))
            return total

    untrained = TextualInversion().load(sd1, _start_file(sd1, tmp_path), concept)
    before = loss()
    untrained()
    path = train(sd1, tmp_path / "run", steps=15, learning_rate=0.1)
    undo = TextualInversion().load(sd1, path, concept)
    after = loss()
    undo()
    assert after < before


def _start_file(pipe, folder):
    (token,) = pipe.tokenizer("duck", add_special_tokens=False).input_ids
    row = pipe.text_encoder.get_input_embeddings().weight.detach()[token][None].clone()
    save_file({"<my-duck>": row}, folder / "start.safetensors")
    return folder / "start.safetensors"


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine", "warmup": 2, "vectors": 2}])
def test_a_stopped_training_goes_on_to_the_same_bytes(sd1, tmp_path, monkeypatch, options):
    whole = train(sd1, tmp_path / "whole", steps=6, **options).read_bytes()
    original = ConceptBatches.batch

    def fail(self, step):
        if step == 5:
            raise RuntimeError("the machine went away")
        return original(self, step)

    before = fingerprint(sd1)
    with monkeypatch.context() as patch:
        patch.setattr(ConceptBatches, "batch", fail)
        with pytest.raises(RuntimeError, match="went away"):
            train(sd1, tmp_path / "run", steps=6, **options)
    assert fingerprint(sd1) == before
    assert not (tmp_path / "run" / "learned_embeds.safetensors").exists()
    seen = []
    monkeypatch.setattr(
        ConceptBatches, "batch", lambda self, step: seen.append(step) or original(self, step)
    )
    assert train(sd1, tmp_path / "run", steps=6, **options).read_bytes() == whole
    assert seen[0] == 4
    seen.clear()
    assert train(sd1, tmp_path / "run", steps=6, **options).read_bytes() == whole
    assert not seen


def test_interrupting_is_an_interruption(sd1, tmp_path, monkeypatch):
    def interrupt(self, step):
        raise KeyboardInterrupt

    handler, before = signal.getsignal(signal.SIGINT), fingerprint(sd1)
    monkeypatch.setattr(ConceptBatches, "batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(sd1, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert fingerprint(sd1) == before


def test_a_half_written_checkpoint_is_passed_over(sd1, tmp_path):
    whole = train(sd1, tmp_path).read_bytes()
    (tmp_path / "checkpoints" / "step-000004.ckpt").write_bytes(b"half")
    assert train(sd1, tmp_path).read_bytes() == whole


def test_another_training_does_not_go_on_here(sd1, tmp_path):
    train(sd1, tmp_path)
    for changes in ({"learning_rate": 0.1}, {"seed": 1}, {"with_class": False}):
        with pytest.raises(UserError, match="another training"):
            train(sd1, tmp_path, **changes)
    fewer = make_concept(images=make_concept().images[:2])
    with pytest.raises(UserError, match="another training"):
        train(sd1, tmp_path, concept=fewer)


def test_what_is_not_finite_is_not_kept(sd1, tmp_path):
    """A step so large that the rows leave float32: neither a checkpoint nor a result."""
    with pytest.raises(UserError, match=r"step 0: clip_l is not finite"):
        train(sd1, tmp_path, learning_rate=1e30, weight_decay=1e20, steps=1)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_stops_at_once(sd1, tmp_path, monkeypatch, where):
    original, calls = Objective.loss, []

    def loss(self, output, batch):
        calls.append(1)
        value = original(self, output, batch)
        if len(calls) < 4:
            return value
        return value * float("nan") if where == "loss" else (value - value.detach()).sqrt()

    monkeypatch.setattr(Objective, "loss", loss)
    before = fingerprint(sd1)
    with pytest.raises(UserError, match="step-000002.ckpt") as caught:
        train(sd1, tmp_path, steps=8)
    assert "step 3" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert fingerprint(sd1) == before
    state = torch.load(tmp_path / "checkpoints" / "step-000002.ckpt", weights_only=True)
    assert torch.isfinite(state["state_dict"]["trained.clip_l"]).all()
    assert not (tmp_path / "learned_embeds.safetensors").exists()


@pytest.mark.parametrize("vectors", [1, 3])
def test_loads_as_diffusers_does_and_leaves_no_trace(sd1, tmp_path, vectors):
    path = train(sd1, tmp_path, vectors=vectors, steps=2)
    concept, prompt = make_concept(), "a photo of a <my-duck> duck on grass"
    plain, before = draw(sd1, prompt), fingerprint(sd1)
    undo = TextualInversion().load(sd1, tmp_path, concept)
    ours = draw(sd1, prompt)
    positions = concept_positions(backbone_of(sd1), prompt, concept)
    assert positions == list(range(5, 5 + vectors + 1))
    undo()
    undo()
    assert fingerprint(sd1) == before
    assert np.array_equal(draw(sd1, prompt), plain)

    other = tiny_sd(sample_size=16)
    other.set_progress_bar_config(disable=True)
    other.load_textual_inversion(str(path))
    assert np.array_equal(draw(other, prompt), ours)
    assert not np.array_equal(ours, plain)


def test_several_concepts_in_one_pipeline(sd1, tmp_path):
    path = train(sd1, tmp_path, steps=1)
    before, method = fingerprint(sd1), TextualInversion()
    first = method.load(sd1, path, make_concept())
    second = method.load(sd1, path, make_concept(placeholder="<other>"))
    prompts = ("a <my-duck> duck", "a <other> duck")
    assert np.array_equal(draw(sd1, prompts[0]), draw(sd1, prompts[1]))
    with pytest.raises(UserError, match="reverse order"):
        first()
    second()
    first()
    assert fingerprint(sd1) == before


def test_weights_that_do_not_fit(sd1, sdxl, tmp_path):
    method, concept = TextualInversion(), make_concept()
    save_file({"<x>": torch.zeros(1, 48)}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"width 48.*width 32"):
        method.load(sd1, tmp_path / "wide.safetensors", concept)
    two = {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 32)}
    save_file(two, tmp_path / "xl.safetensors")
    with pytest.raises(UserError, match="another family"):
        method.load(sd1, tmp_path / "xl.safetensors", concept)
    with pytest.raises(UserError, match=r"width 48.*width 32"):
        method.load(sdxl, tmp_path / "wide.safetensors", concept)
    with pytest.raises(UserError, match="do not exist"):
        method.load(sd1, tmp_path / "none.safetensors", concept)
    with pytest.raises(UserError, match="give the file itself"):
        method.load(sd1, tmp_path, concept)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        method.load(sd1, tmp_path / "bad.safetensors", concept)


def test_placeholder_must_be_one_new_word(sd1, tmp_path):
    for word, message in (
        ("", "one new word"),
        ("<my duck>", "one new word"),
        ("duck", "already in"),
        ("Duck", "already in"),
    ):
        with pytest.raises(UserError, match=message):
            train(sd1, tmp_path, concept=make_concept(placeholder=word))
    path = train(sd1, tmp_path, steps=1)
    undo = TextualInversion().load(sd1, path, make_concept())
    with pytest.raises(UserError, match="already in"):
        TextualInversion().load(sd1, path, make_concept())
    with pytest.raises(UserError, match="already in"):
        train(sd1, tmp_path / "again")
    undo()


def test_bad_options_are_refused_before_anything_is_written(sd1, tmp_path):
    folder = tmp_path / "run"
    for options, message in (
        ({"vectors": 64, "templates": ["a photo of a duck " * 4 + "{}"]}, "fewer vectors"),
        ({"templates": ["objects"]}, "Did you mean 'object'"),
        ({"templates": []}, "templates is empty"),
        ({"precision": "16"}, "needs a CUDA"),
        ({"resolution": 60}, "multiple of 8"),
        ({"initializer": " "}, "no word"),
    ):
        with pytest.raises(UserError, match=message):
            train(sd1, folder, **options)
    with pytest.raises(UserError, match="vectors is 0"):
        TextualInversion(vectors=0)
    assert not folder.exists()


def test_bfloat16_and_mirroring_and_all_options_run(sd1, tmp_path):
    options = {
        "precision": "bf16",
        "mirror": True,
        "stratified": False,
        "min_snr": 5.0,
        "sample_latents": False,
        "gradient_clip": None,
        "gradient_checkpointing": True,
        "initializer": "red toy",
        "templates": ["style", "a {}"],
    }
    before = fingerprint(sd1)
    assert torch.isfinite(learned(train(sd1, tmp_path, steps=2, **options))).all()
    assert fingerprint(sd1) == before
    assert not any(getattr(m, "gradient_checkpointing", False) for m in sd1.unet.modules())


def test_v_prediction(sd2, tmp_path):
    assert torch.isfinite(learned(train(sd2, tmp_path, steps=2, min_snr=5.0))).all()


def test_two_text_encoders(sdxl, tmp_path):
    tokenizers = [sdxl.tokenizer, sdxl.tokenizer_2]
    path = train(sdxl, tmp_path, steps=2, vectors=2)
    rows = load_file(path)
    assert {key: tuple(row.shape) for key, row in rows.items()} == {
        "clip_l": (2, 32),
        "clip_g": (2, 32),
    }
    prompt = "a photo of a <my-duck> duck"
    plain = draw(sdxl, prompt)
    undo = TextualInversion().load(sdxl, path, make_concept())
    changed = draw(sdxl, prompt)
    undo()
    assert [sdxl.tokenizer, sdxl.tokenizer_2] == tokenizers
    assert np.array_equal(draw(sdxl, prompt), plain)
    assert not np.array_equal(changed, plain)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(sd1, tmp_path):
    """The real thing: SIGKILL while it trains, then the same call again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]\n"
        "torch.set_num_threads(1)\n"
        "from tiny import tiny_sd\n"
        "from test_textual_inversion import train\n"
        "train(tiny_sd(sample_size=16), sys.argv[1], steps=60)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoints/step-00001*.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "learned_embeds.safetensors").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    resumed = (tmp_path / "run" / "learned_embeds.safetensors").read_bytes()
    assert train(sd1, tmp_path / "whole", steps=60).read_bytes() == resumed
