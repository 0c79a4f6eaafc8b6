import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ablation_world import tiny_plan

from framework.cli.main import main
from framework.errors import UserError
from framework.experiments.draw import write_batch
from framework.experiments.evaluate import evaluate_run
from framework.experiments.folder import missing, plan_batches, whole
from framework.experiments.plan import load_plan
from framework.experiments.run import run_plan


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """A finished run, undisturbed."""
    plan = load_plan(tiny_plan(world))
    folder = tmp_path_factory.mktemp("runs") / "done"
    assert run_plan(plan, folder) == 8
    return plan, folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (folder / "images").rglob("*.*")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_every_picture_is_there_with_its_metadata(done):
    plan, folder = done
    assert all(whole(folder, cell) for cell in plan.cells)
    cell = plan.cells[-1]
    said = json.loads((folder / cell.file).with_suffix(".json").read_text())
    assert said["id"] == cell.id and said["noise_seed"] == cell.noise_seed
    assert len(said["matches"]) == 4 and all(len(match) == 5 for match in said["matches"])
    assert len(contents(folder)) == 16
    assert run_plan(plan, folder) == 0


def test_what_is_damaged_or_missing_is_found_and_drawn_again(done, tmp_path):
    plan, folder = done
    before = contents(folder)
    victims = [folder / plan.cells[0].file, folder / plan.cells[3].file]
    victims[0].write_bytes(victims[0].read_bytes()[:100])
    victims[1].unlink()
    (folder / plan.cells[5].file).with_suffix(".json").write_text("{broken")
    assert len(missing(folder, plan_batches(plan))) == 3
    with pytest.raises(UserError, match="3 of 8 pictures"):
        evaluate_run(plan, folder)
    run_plan(plan, folder)
    assert contents(folder) == before


def test_another_plan_s_folder_is_refused(done, world, capsys):
    _, folder = done
    for options, message in (
        (["seeds=[0]"], "seeds: "),
        (["sampler.guidance_scale=3"], "resolved configuration"),
        (["concepts=[blot]"], "concepts: "),
    ):
        with pytest.raises(UserError, match="another configuration") as caught:
            run_plan(load_plan(tiny_plan(world), options), folder)
        assert message in str(caught.value)


def test_strangers_folders_are_refused(world, tmp_path):
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        run_plan(load_plan(tiny_plan(world)), tmp_path)
    with pytest.raises(UserError, match="is a file"):
        run_plan(load_plan(tiny_plan(world)), tmp_path / "letter.txt")


def test_part_by_part_gives_the_same_bytes(done, tmp_path):
    plan, folder = done
    batches = plan_batches(plan)
    for part in (batches[2:], batches[:1], batches):
        run_plan(plan, tmp_path / "parts", part)
    assert contents(tmp_path / "parts") == contents(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_next_start_goes_on(done, tmp_path, monkeypatch, number):
    plan, folder = done
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def asked_to_stop(*arguments):
        write_batch(*arguments)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr("framework.experiments.predict.write_batch", asked_to_stop)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert len(contents(tmp_path / "run")) == 4
    assert run_plan(plan, tmp_path / "run") == 6
    assert contents(tmp_path / "run") == contents(folder)


def test_weights_are_learned_once_and_shared(world, tmp_path):
    options = ["concept.placeholder=null", "personalizer.steps=1", "concepts=[blot]", "seeds=[0]"]
    shared = [*options, f"run.weights={tmp_path / 'weights'}"]
    plan = load_plan(tiny_plan(world), shared)
    run_plan(plan, tmp_path / "one")
    (note,) = (tmp_path / "weights").glob("*/learned.json")
    stamp = note.stat().st_mtime_ns
    run_plan(load_plan(tiny_plan(world), [*shared, "sampler.guidance_scale=3"]), tmp_path / "two")
    assert [p.stat().st_mtime_ns for p in (tmp_path / "weights").glob("*/learned.json")] == [stamp]


def test_the_command_draws_scores_and_tabulates(world, tmp_path, capsys):
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(tiny_plan(world)))
    words = ["ablate", str(file), "--output", str(tmp_path / "run")]
    assert main([*words, "--dry-run", "--timed", "1"]) == 0
    told = capsys.readouterr().out
    assert "8 pictures = 2 variant(s) x 2 concept(s) x 1 prompt(s) x 2 seed(s)" in told
    assert "estimate: " in told and "MiB" in told
    assert not (tmp_path / "run").exists()
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "8 picture(s) drawn" in told and "ours" in told
    for name in ("table.txt", "table.md", "table.tex", "table.csv", "trade_off.png"):
        assert (tmp_path / "run" / "results" / "corrected" / name).stat().st_size
    scored = list(csv.DictReader((tmp_path / "run/scores/corrected.csv").open()))
    assert len(scored) == 8
    parquet = pytest.importorskip("pyarrow.parquet")
    (score,) = parquet.read_table(tmp_path / "run/scores/corrected.parquet", columns=["identity"])
    assert [f"{value.as_py()}" for value in score] == [row["identity"] for row in scored]
    log = tmp_path / "run" / "log"
    drawn = list(csv.DictReader((log / "drawing" / "from-000000" / "metrics.csv").open()))
    assert [row["pictures"] for row in drawn] == ["2", "4", "6", "8"]
    assert all(float(row["pictures_a_minute"]) > 0 for row in drawn)
    (means,) = csv.DictReader((log / "scores" / "corrected" / "ours" / "metrics.csv").open())
    table = list(csv.DictReader((log.parent / "results" / "corrected" / "table.csv").open()))
    (mean,) = (r["mean"] for r in table if (r["variant"], r["score"]) == ("ours", "identity"))
    assert float(means["I_DINO"]) == float(mean)
    stamp = (tmp_path / "run" / "images").stat().st_mtime_ns
    assert main(["evaluate", str(tmp_path / "run"), "--protocol", "official"]) == 0
    assert (tmp_path / "run" / "results" / "official" / "table.md").is_file()
    assert (tmp_path / "run" / "images").stat().st_mtime_ns == stamp


def test_a_log_for_tensorboard(done, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plan, folder = done
    shutil.copytree(folder, tmp_path / "run")
    for cell in plan.cells[:2]:
        (tmp_path / "run" / cell.file).unlink()
    plan = replace(plan, run=replace(plan.run, log="tensorboard"))
    run_plan(plan, tmp_path / "run")
    log = tmp_path / "run" / "log"
    curve = events.EventAccumulator(str(log / "drawing" / "from-000006")).Reload()
    assert [(e.step, e.value) for e in curve.Scalars("pictures")] == [(8, 8.0)]
    for _ in range(2):  # the second replaces the first
        found = evaluate_run(plan, tmp_path / "run", report=False)
        told = events.EventAccumulator(str(log / "scores" / "corrected" / "ours")).Reload()
        (value,) = (e.value for e in told.Scalars("I_DINO"))
        assert value == pytest.approx(found[0].entries["ours"]["identity"].mean.mean)


def test_a_missing_encoder_is_said_before_anything_is_drawn(world, tmp_path, capsys):
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(tiny_plan(world)))
    (tmp_path / "empty").mkdir()
    words = ["ablate", str(file), "--output", str(tmp_path / "run")]
    assert main([*words, f"evaluation.identity={tmp_path / 'empty'}"]) == 2
    told = capsys.readouterr().err
    assert str(tmp_path / "empty" / "config.json") in told and "not found" in told
    assert not (tmp_path / "run").exists()


def command(file: Path, output: Path, *words: str) -> list[str]:
    start = [sys.executable, "-m", "framework.cli.main", "ablate", str(file), "--quiet"]
    return [*start, "--no-scores", "--output", str(output), *words]


@pytest.mark.slow
def test_two_ranks_and_a_kill_give_the_bytes_of_an_undisturbed_run(world, tmp_path):
    """Killed with two ranks as soon as a picture is there; ended by two ranks; equal to one's."""
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(tiny_plan(world, seeds=list(range(6)))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(file, killed, "run.devices=2"), env=environment, start_new_session=True
    )
    until = time.monotonic() + 240
    while not list(killed.rglob("*.png")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = len(list(killed.rglob("*.json")))
    subprocess.run(command(file, killed, "run.devices=2"), env=environment, check=True)
    plan = load_plan(file)
    assert there < len(plan.cells)
    assert all(whole(killed, cell) for cell in plan.cells)
    run_plan(load_plan(file), tmp_path / "undisturbed")
    assert contents(killed) == contents(tmp_path / "undisturbed")
    assert not list(killed.rglob(".*.png"))

    for cell in plan.cells[:1]:  # one batch left: the second rank has none
        (killed / cell.file).unlink()
    ended = subprocess.run(
        command(file, killed, "run.devices=2"), env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    assert contents(killed) == contents(tmp_path / "undisturbed")


WEIGHTS = "weights/*/learned_embeds.safetensors"


@pytest.mark.slow
def test_words_learned_by_two_ranks_are_those_of_one(world, tmp_path):
    """A rank that learns a word alone sees the batches, and writes the files, of a lone process."""
    plan = tiny_plan(world, seeds=[0])
    del plan["config"]["concept.placeholder"]
    plan["config"] |= {"personalizer.steps": 3, "personalizer.log_every": 1}
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(plan))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for ranks in (1, 2):
        words = command(file, tmp_path / str(ranks), f"run.devices={ranks}")
        subprocess.run(words, env=environment, check=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    one, two = (
        {path.parent.name: path.read_bytes() for path in (tmp_path / ranks).glob(WEIGHTS)}
        for ranks in ("1", "2")
    )
    assert len(one) == 2 and one == two
    assert len(list((tmp_path / "2").glob("weights/*/logs/*/metrics.csv"))) == 2


@pytest.mark.slow
def test_submitted_to_local_processes(done, world, tmp_path):
    pytest.importorskip("submitit")
    plan, folder = done
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(tiny_plan(world)))
    words = ["submit", str(file), "--output", str(tmp_path / "run"), "--cluster", "local"]
    assert main([*words, "--tasks", "1", "--wait"]) == 0
    assert contents(tmp_path / "run") == contents(folder)
    assert main([*words, "--tasks", "1", "--wait"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run.devices=1000"], "run.devices is 1000; this machine has"),
        (["model.device=cuda:99"], "model.device is 'cuda:99'"),
        (["run.accelerator=gpus"], "expected auto, cpu, gpu"),
        (["sampler.height=100000", "sampler.width=1000000"], "100000 x 1000000 pixels takes"),
        (["mask.resolution=5"], "Variant 'ours': mask.resolution"),
        (["prompts=[a photo of a {} on the moooon]"], "moooon"),
        (["--timed", "-1"], "--timed is -1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_learned(world, tmp_path, capsys, words, message):
    plan = tiny_plan(world, run={"matches": 4})
    del plan["config"]["concept.placeholder"]  # so that words would have to be learned
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    command = ["ablate", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "run")]
    assert main([*command, "--no-scores", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
