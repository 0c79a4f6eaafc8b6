"""Throughput of several processes: the same plan drawn with each number, read off its own log.

Start-up (libraries, model, the reference of the first batch) is left out: what counts is the time
in which every process draws, from the end of the last first batch to the first end of a last one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framework.concepts.folders import list_concepts
from framework.config.page import Config, to_plain
from framework.errors import UserError
from framework.runs.atomic import read_json, write_atomic

#: What two processes on two cores are to reach, as a multiple of one.
AIM = 1.7
#: Batches a process draws at most, the first of which is not counted, and pictures in each.
BATCHES = 5
PICTURES = 4
PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class Speed:
    """How fast a number of processes drew.

    Attributes:
        processes: how many.
        rate: pictures a second, all together, once all were running.
        seconds: length of the time it was measured in.
    """

    processes: int
    rate: float
    seconds: float


def throughput_plan(config: Config, batches: int, pictures: int) -> dict[str, Any]:
    """A plan of one variant, concept and prompt, in equal batches; nothing has to be learned.

    Args:
        config: what is drawn; its first concept is taken.
        batches: how many.
        pictures: in each.
    """
    concept = config.concept
    name = concept.name or (Path(concept.path).name if concept.path else None)
    name = name or next(iter(list_concepts(concept.library)), None)
    if name is None:
        raise UserError(
            f"The library '{concept.library}' has no concept; give concept.path=FOLDER with "
            "pictures of an object."
        )
    own = {key: getattr(concept, key) for key in ("path", "class_name")}
    learned = concept.weights is not None
    told = to_plain(
        replace(
            config,
            concept=replace(concept, placeholder=concept.placeholder if learned else ""),
            sampler=replace(config.sampler, batch_size=pictures),
        )
    )
    for key in ("prompts", "seeds", "output", "concepts", "personalizers"):
        told.pop(key, None)
    return {
        "name": "throughput",
        "config": told,
        "variants": {"configured": {}},
        "concepts": {name: {key: value for key, value in own.items() if value is not None}},
        "prompts": [PROMPT],
        "seeds": list(range(batches * pictures)),
        "learn": False,
    }


def measure_speed(plan: dict[str, Any], processes: int) -> Speed:
    """Draw a plan into a scratch folder with so many processes of one thread each.

    Raises:
        UserError: it cannot be drawn; what the run said is quoted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = write_atomic(Path(scratch) / "plan.yaml", json.dumps(plan))
        folder = Path(scratch) / "run"
        words = [sys.executable, "-m", "framework.cli.main", "ablate", str(file), "--quiet"]
        words += ["--no-scores", "--output", str(folder), "run.threads=1", "run.matches=0"]
        words += [f"run.devices={processes}", "run.log=none"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise UserError(f"{processes} process(es) could not draw: {said}")
        notes = [read_json(path) for path in (folder / "log" / "batches").glob("*.json")]
    return speed_of(notes, processes)


def speed_of(notes: Sequence[dict[str, Any]], processes: int) -> Speed:
    """Pictures a second in the time in which all processes drew, their first batches left out.

    Args:
        notes: of the batches: ``process``, ``began`` (s), ``seconds``, ``cells``.
        processes: how many there were.

    Raises:
        UserError: a process drew fewer than two batches, or they did not draw at the same time.
    """
    by_process: dict[int, list[tuple[float, float, int]]] = {}
    for note in notes:
        span = (note["began"], note["began"] + note["seconds"], note["cells"])
        by_process.setdefault(note["process"], []).append(span)
    drew = [sorted(spans) for spans in by_process.values()]
    start = max((spans[0][1] for spans in drew), default=0.0)
    end = min((spans[-1][1] for spans in drew), default=0.0)
    if len(drew) != processes or end <= start:
        raise UserError(
            f"{processes} process(es) were to draw at the same time, but {len(drew)} did, for "
            f"{max(0.0, end - start):.1f} s; give more batches to each."
        )
    pictures = 0.0
    for spans in drew:
        for began, ended, cells in spans[1:]:
            inside = max(0.0, min(ended, end) - max(began, start))
            pictures += cells * inside / (ended - began)
    return Speed(processes, pictures / (end - start), end - start)


def speed_table(speeds: Sequence[Speed]) -> str:
    """The speeds as Markdown, each beside the first."""
    lines = [
        "| processes | images a second | times the first | measured for |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for each in speeds:
        ratio = each.rate / speeds[0].rate
        lines.append(f"| {each.processes} | {each.rate:.3f} | {ratio:.2f} | {each.seconds:.0f} s |")
    return "\n".join(lines)


def aim_sentence(speeds: Sequence[Speed]) -> str:
    """Whether two processes reach the aim, where one and two were measured; else nothing."""
    rates = {each.processes: each.rate for each in speeds}
    if not {1, 2} <= set(rates):
        return ""
    ratio = rates[2] / rates[1]
    kept = "met" if ratio >= AIM else "missed"
    return f"Two processes draw {ratio:.2f} times what one does; aimed at {AIM}: {kept}."
