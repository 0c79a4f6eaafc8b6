"""What a plan amounts to: counts, and hours and disk estimated from a few timed cells."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from framework.errors import UserError
from framework.experiments.batches import CellBatch, cost, order
from framework.experiments.draw import Artist, weights_folder
from framework.experiments.folder import LOG, missing, plan_batches
from framework.experiments.plan import Plan
from framework.experiments.run import device_count, run_device, weights_root
from framework.runs.folder import RunFolder
from framework.runs.progress import no_progress
from framework.training.personalize import NOTE

logger = logging.getLogger(__name__)

#: Training steps that are timed; twice, so that the start-up is not counted.
STEPS = (2, 6)


def describe(plan: Plan, place: RunFolder, timed: int = 2) -> str:
    """The plan in words, for ``--dry-run``.

    Args:
        plan: the plan.
        place: where it would run; what is there already is counted, nothing is written.
        timed: how many cells are drawn to tell the time: the cheapest variant, the dearest, others.

    Raises:
        UserError: the folder holds another plan.
    """
    refusal, folder = place.refusal(), place.path
    if refusal is not None:
        raise UserError(refusal)
    batches = plan_batches(plan)
    todo = missing(folder, batches)
    cells = plan.cells
    left = sum(len(batch.cells) for batch in todo)
    prompts = {len({c.prompt for c in s.cells}) for s in plan.settings}
    seeds = {len({c.seed for c in s.cells}) for s in plan.settings}
    lines = [
        f"plan '{plan.name}' ({plan.identity}): {len(cells)} pictures = "
        f"{len(plan.variants)} variant(s) x {len(plan.concepts)} concept(s) x "
        f"{_range(prompts)} prompt(s) x {_range(seeds)} seed(s), in {len(batches)} batches",
        "variants:",
    ]
    for variant in plan.variants:
        mark = " (baseline)" if variant.name == plan.baseline else ""
        changes = ", ".join(f"{key}={value}" for key, value in variant.values.items())
        lines.append(f"  {variant.name}{mark}: {changes or 'the base as it is'}")
    lines.append(f"concepts: {', '.join(plan.concepts)}")
    lines.append(f"output: {folder}; {len(cells) - left} there and whole, {left} to draw")
    untrained = _untrained(plan, folder, todo)
    lines.append(f"to learn: {len(untrained)} weights")
    if timed > 0 and todo:
        lines += _timed(plan, folder, todo, untrained, timed)
    return "\n".join(lines)


def _range(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)}-{max(values)}"


def _untrained(plan: Plan, folder: Path, todo: list[CellBatch]) -> list[CellBatch]:
    """One batch for each training that is still to be done."""
    root = weights_root(plan, folder)
    found: dict[Any, CellBatch] = {}
    for batch in todo:
        config, subject = batch.setting.config, batch.setting.subject
        if config.concept.weights is not None or not (subject.placeholder and plan.learn):
            continue
        if not (weights_folder(root, subject, config) / NOTE).is_file():
            found.setdefault(order(config)[:2], batch)
    return list(found.values())


def _timed(
    plan: Plan, folder: Path, todo: list[CellBatch], untrained: list[CellBatch], timed: int
) -> list[str]:
    """Hours and disk."""
    first: dict[str, CellBatch] = {}
    for batch in todo:
        first.setdefault(batch.setting.variant, batch)
    by_cost = sorted(first.values(), key=lambda b: cost(b) / len(b.cells))
    ends = [by_cost[0], by_cost[-1], *by_cost[1:-1]]
    chosen = list({b.setting.variant: b for b in ends}.values())[:timed]
    device = str(run_device(plan.run))
    seconds: dict[str, float] = {}
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as scratch:
        artist = Artist(Path(scratch), False, device, plan.run.matches > 0)
        for batch in chosen:
            plain = _unlearned(batch)
            artist.draw(plain)  # prepares model and reference
            start = time.perf_counter()
            result = artist.draw(plain)
            seconds[batch.setting.variant] = time.perf_counter() - start
            buffer = io.BytesIO()
            result.images[0].save(buffer, format="PNG")
            sizes.append(len(buffer.getvalue()) + 2000)
        learning, weight = _training(artist, untrained, Path(scratch))
        artist.close()
    per_cost = mean(seconds[b.setting.variant] / (cost(b) / len(b.cells)) for b in chosen)
    seen = _logged(folder)
    drawing = 0.0
    for batch in todo:
        variant, each = batch.setting.variant, cost(batch) / len(batch.cells)
        one = seen.get(variant) or seconds.get(variant) or per_cost * each
        drawing += one * len(batch.cells)
    ranks = device_count(plan.run, len(todo))
    processes = ranks if isinstance(ranks, int) else 1
    processes *= plan.run.num_nodes
    hours = (drawing + learning * len(untrained)) / 3600
    disk = len([c for b in todo for c in b.cells]) * mean(sizes) + weight * len(untrained)
    named = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return [
        f"timed on {device}, one picture each: {named}; learning about {learning:.0f} s each",
        f"estimate: {hours:.2f} h of one process, {hours / processes:.2f} h with {processes}; "
        f"{disk / 2**20:.1f} MiB of disk",
    ]


def _unlearned(batch: CellBatch) -> CellBatch:
    """The batch's first cell, of the plain noun: nothing need be learned to time it."""
    setting = replace(batch.setting, subject=replace(batch.setting.subject, placeholder=""))
    cell = batch.cells[0]
    if "{}" not in cell.prompt:
        cell = replace(cell, prompt="a photo of a {}")
    return CellBatch(setting, 0, (cell,))


def _training(artist: Artist, untrained: list[CellBatch], scratch: Path) -> tuple[float, float]:
    """Seconds and bytes of one training, from a few of its steps; zeros where none is to do."""
    if not untrained:
        return 0.0, 0.0
    config, subject = untrained[0].setting.config, untrained[0].setting.subject
    steps = config.personalizer.get("steps")
    if not isinstance(steps, int):
        return 0.0, 0.0
    pipe = artist.pipe(config)
    times, size = [], 0
    for few in STEPS:
        options: dict[str, Any] = {"steps": min(few, steps)}
        start = time.perf_counter()
        with no_progress():
            path = config.part("personalizer", **options).train(
                pipe, subject, scratch / f"train{few}", seed=config.seed
            )
        times.append(time.perf_counter() - start)
        files = [path] if path.is_file() else list(path.rglob("*"))
        size = sum(file.stat().st_size for file in files if file.is_file())
    step = max(0.0, (times[1] - times[0]) / (STEPS[1] - STEPS[0]))
    return times[0] + step * max(0, steps - STEPS[0]), float(size)


def _logged(folder: Path) -> dict[str, float]:
    """Seconds a picture of each variant, from what was drawn before."""
    found: dict[str, list[float]] = {}
    for path in (folder / LOG / "batches").glob("*.json"):
        try:
            said = json.loads(path.read_text())
            found.setdefault(said["variant"], []).append(said["seconds"] / said["cells"])
        except (OSError, ValueError, KeyError):
            continue
    return {name: sorted(values)[len(values) // 2] for name, values in found.items()}
