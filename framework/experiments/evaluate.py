"""Second pass over a run: score every picture, tabulate, plot, report."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from framework.concepts.folders import load_concept
from framework.concepts.images import load_image
from framework.config.evaluation import EvaluationConfig
from framework.config.page import ConceptConfig
from framework.errors import UserError
from framework.experiments.cells import Cell, slug
from framework.experiments.folder import read_cells, read_plan, whole
from framework.experiments.log import log_scores
from framework.experiments.page import write_report
from framework.experiments.plan import Plan
from framework.experiments.plots import write_plots
from framework.experiments.results import Results, compare_variants
from framework.experiments.tables import (
    csv_text,
    latex_table,
    markdown_table,
    table_rows,
    text_table,
)
from framework.metrics.diversity import lpips_distance
from framework.metrics.loading import Encoders, load_encoders
from framework.metrics.panel import SCORES, Panel
from framework.metrics.protocols import protocol
from framework.metrics.scale import other_concepts
from framework.options import fill
from framework.runs.atomic import read_json, write_atomic
from framework.runs.machine import hardware
from framework.runs.progress import progress

logger = logging.getLogger(__name__)

IDENTITY = ("id", "variant", "concept", "prompt_index", "prompt", "seed", "file")


def evaluate_run(
    run: Plan | None,
    folder: Path,
    *,
    protocols: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
    report: bool = True,
    log: str | None = None,
) -> list[Results]:
    """Score a run folder and write tables, plots and the report.

    Args:
        run: the plan, if at hand; only the folder is read.
        folder: of the run.
        protocols: names; default those of the plan.
        changes: options of the evaluation other than the run's own, e.g. another encoder.
        device: where the encoders run.
        report: whether ``report.html`` is written.
        log: ``csv``, ``tensorboard`` or ``none``; default the plan's, else ``csv``.

    Returns:
        One for each protocol.

    Raises:
        UserError: it is no run folder, pictures are missing or damaged, or an encoder cannot be
            loaded.
    """
    folder = Path(folder).expanduser()
    said = read_plan(folder)
    cells = read_cells(folder)
    damaged = [cell for cell in cells if not whole(folder, cell)]
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(cells)} pictures in '{folder}' are missing or damaged, "
            f"'{damaged[0].file}' for one. Draw them first: the same 'dreammatcher ablate' "
            "command again keeps what is whole."
        )
    base = EvaluationConfig(**{**said["evaluation"], **(changes or {})})
    found = []
    for name in protocols or said["protocols"]:
        config = protocol(name).apply(base)
        scoring = Scoring(folder, said["concepts"], config, name, device, bool(said.get("scaled")))
        rows = score_cells(scoring, cells)
        write_scores(rows, folder, name)
        variants = list(said["variants"])
        results = compare_variants(rows, variants, said["baseline"], name, said["variants"])
        results = replace(results, hardware=machines(folder))
        write_results(results, folder)
        found.append(results)
    costs = cost_rows(folder, list(said["variants"]))
    if costs:
        write_atomic(folder / "results" / "costs.csv", csv_text(costs))
    log_scores(found, folder, log or (run.run.log if run else "csv"))
    if report:
        write_report(folder, found, costs)
    return found


def machines(folder: Path) -> str:
    """Which hardware drew the pictures of a run, from the log of its batches, and which scores."""
    notes = [read_json(path) for path in sorted((folder / "log" / "batches").glob("*.json"))]
    drawn = dict.fromkeys(note["hardware"] for note in notes if note.get("hardware"))
    return f"Drawn on {' / '.join(drawn) or 'unknown hardware'}; scored on {hardware()}."


def cost_rows(folder: Path, variants: Sequence[str]) -> list[dict[str, Any]]:
    """Seconds and memory of every variant, from the log of its batches; the median counts."""
    notes = [read_json(path) for path in sorted((folder / "log" / "batches").glob("*.json"))]
    rows = []
    for variant in variants:
        own = [said for said in notes if said.get("variant") == variant]
        if own:
            rows.append(
                {
                    "variant": variant,
                    "seconds": round(median(n["seconds"] / n["cells"] for n in own), 3),
                    "memory_mib": round(median(n["memory_mib"] for n in own), 1),
                    "batches": len(own),
                    "device": own[-1]["device"],
                    "threads": own[-1]["threads"],
                }
            )
    return rows


def write_results(results: Results, folder: Path) -> None:
    """Tables and plots of one protocol, below ``results/<protocol>/``."""
    place = folder / "results" / results.protocol
    write_atomic(place / "table.txt", text_table(results))
    write_atomic(place / "table.md", markdown_table(results))
    write_atomic(place / "table.tex", latex_table(results))
    write_atomic(place / "table.csv", csv_text(table_rows(results)))
    write_atomic(place / "results.json", json.dumps(results.to_dict(), indent=2) + "\n")
    write_plots(results, place)


def print_results(found: Sequence[Results], folder: Path) -> None:
    """The tables, and where everything is."""
    for results in found:
        print(f"\n{results.protocol}\n")
        print(text_table(results))
    for name in ("results/", "scores/", "report.html"):
        if (folder / name).exists():
            print(f"  {folder / name}")


@dataclass(frozen=True)
class Scoring:
    """How the pictures of a run are scored.

    Attributes:
        folder: of the run.
        concepts: name -> its section of the configuration.
        config: encoders and preprocessing.
        protocol: its name, for the intermediate files.
        device: where the encoders run.
        scaled: whether similarities of pictures are also put on the concept's scale.
    """

    folder: Path
    concepts: Mapping[str, Mapping[str, Any]]
    config: EvaluationConfig
    protocol: str
    device: str = "cpu"
    scaled: bool = False

    def note(self, concept: str) -> Path:
        """File of a finished concept's scores."""
        return self.folder / "scores" / "concepts" / self.protocol / f"{slug(concept)}.json"


def score_cells(scoring: Scoring, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Every score of every cell; finished concepts of an earlier pass are taken from there."""
    encoders = load_encoders(scoring.config, scoring.device)
    mark = fingerprint_of(encoders, scoring.config) + ("scaled" if scoring.scaled else "")
    rows: list[dict[str, Any]] = []
    names = list(dict.fromkeys(cell.concept for cell in cells))
    for concept in progress(names, f"scores ({scoring.protocol})"):
        own = [cell for cell in cells if cell.concept == concept]
        note, key = scoring.note(concept), _key(scoring.folder, own, mark)
        known = read_json(note)
        if known.get("key") != key:
            known = {"key": key, **_score_concept(scoring, own, encoders)}
            write_atomic(note, json.dumps(known) + "\n")
        rows.extend(known["rows"])
    order = {cell.id: place for place, cell in enumerate(cells)}
    return sorted(rows, key=lambda row: order[row["id"]])


def _score_concept(scoring: Scoring, cells: Sequence[Cell], encoders: Encoders) -> dict[str, Any]:
    """``rows`` of the cells of one concept, and its ``scale`` for each similarity of pictures."""
    section = fill("concept", ConceptConfig, scoring.concepts[cells[0].concept])
    concept, lpips = load_concept(section), lpips_distance(scoring.config.lpips)
    panel = Panel(encoders, concept, scoring.config.text, lpips=lpips)
    others = other_concepts(section.library, concept) if scoring.scaled else []
    scales = panel.scales(others) if scoring.scaled else {}
    rows = []
    for variant in dict.fromkeys(cell.variant for cell in cells):
        own = [cell for cell in cells if cell.variant == variant]
        images = [load_image(scoring.folder / cell.file) for cell in own]
        scores = panel.score(images, [cell.prompt for cell in own], [cell.prompt for cell in own])
        for name, scale in scales.items():
            scores[f"{name}_scaled"] = [scale.place_or_nan(value) for value in scores[name]]
        for place, cell in enumerate(own):
            row: dict[str, Any] = {key: getattr(cell, key) for key in IDENTITY}
            for name in SCORES:
                value = scores[name][place] if name in scores else None
                row[name] = None if value is None or value != value else round(value, 6)
            rows.append(row)
    return {"rows": rows, "scale": {name: scale.to_dict() for name, scale in scales.items()}}


def fingerprint_of(encoders: Encoders, config: EvaluationConfig) -> str:
    """Hash of the encoders' weights and of how pictures reach them."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for encoder in (encoders.identity, encoders.clip_image):
        model = getattr(encoder, "model", None)
        for tensor in model.state_dict().values() if model is not None else ():
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _key(folder: Path, cells: Sequence[Cell], mark: str) -> str:
    digest = hashlib.sha256(mark.encode())
    for cell in cells:
        digest.update(f"{cell.id}{cell.file}".encode())
        digest.update((folder / cell.file).with_suffix(".json").read_bytes())
    return digest.hexdigest()


def write_scores(rows: Sequence[Mapping[str, Any]], folder: Path, name: str) -> None:
    """A row for each picture: ``scores/<name>.csv``, and as parquet where pyarrow is installed."""
    path = folder / "scores" / f"{name}.csv"
    write_atomic(path, csv_text(rows))
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    write_atomic(path.with_suffix(".parquet"), partial(pyarrow.parquet.write_table, table))
