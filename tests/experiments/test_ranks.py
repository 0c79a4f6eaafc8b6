"""Several processes: one that fails, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ablation_world import tiny_plan

PLUGIN = """
import os
import time
from pathlib import Path

from framework import MATCHERS
from framework.errors import UserError
from matchers.cycle_argmax import CycleArgmax


@MATCHERS.register("breaking")
class Breaking(CycleArgmax):
    def __call__(self, *arguments, **named):
        if os.environ.get("LOCAL_RANK") == "1":
            Path("reached").touch()
            if os.environ.get("MODE") == "wait":
                time.sleep(600)
            raise UserError("The second process cannot match. Use the first alone.")
        return super().__call__(*arguments, **named)
"""


@pytest.fixture
def command(world, tmp_path):
    """The words and the environment of a plan whose matcher fails in the second process."""
    (tmp_path / "breaking.py").write_text(PLUGIN)
    plan = tiny_plan(world, plugins=["breaking"], seeds=[0, 1, 2, 3])
    plan["config"]["matcher"] = "breaking"
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    words = [sys.executable, "-m", "framework.cli.main", "ablate", "plan.yaml", "--no-scores"]
    words += ["--quiet", "--output", "run", "run.devices=2"]
    root = str(Path(__file__).parents[2])
    return words, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}


@pytest.mark.slow
def test_what_the_second_process_fails_of_is_said_in_one_sentence(command, tmp_path):
    words, environment = command
    done = subprocess.run(
        words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert said == ["dreammatcher: error: The second process cannot match. Use the first alone."], (
        done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_second_process_ends_with_the_first(command, tmp_path):
    words, environment = command
    process = subprocess.Popen(
        words, env=environment | {"MODE": "wait"}, cwd=tmp_path, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 300
    while not (tmp_path / "reached").exists() and time.monotonic() < until:
        time.sleep(0.1)
    second = next(pid for pid in children(process.pid))
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 5
    while alive(second) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(second)


def children(pid: int) -> list[int]:
    """Process ids started by a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
