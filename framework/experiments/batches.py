"""Batches: cells drawn together. Their composition is the plan's, not that of what is missing.

Matrix products of another size may differ in the last bits, so a batch is always drawn whole, in
the same order, whatever of it is already there: an interrupted run gives the bytes of an
undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from framework.config.page import Config
from framework.experiments.cells import Cell, Setting


@dataclass(frozen=True)
class CellBatch:
    """Cells of one setting that are drawn in one call.

    Attributes:
        setting: variant and concept.
        place: number of the batch within its setting.
        cells: its cells.
    """

    setting: Setting
    place: int
    cells: tuple[Cell, ...]

    @property
    def id(self) -> str:
        """Name of the batch: its first cell's."""
        return self.cells[0].id


def batches_of(settings: Sequence[Setting]) -> list[CellBatch]:
    """Cut every setting's cells into batches of its ``sampler.batch_size``.

    Returns:
        Ordered so that neighbours share model, learned weights and reference.
    """
    ordered = sorted(settings, key=lambda each: order(each.config))
    found = []
    for setting in ordered:
        size = setting.config.sampler.batch_size
        for place, start in enumerate(range(0, len(setting.cells), size)):
            found.append(CellBatch(setting, place, setting.cells[start : start + size]))
    return found


def order(config: Config) -> tuple[str, str, str]:
    """What two settings share: the same model, the same weights, the same reference trajectory."""
    sampler = config.sampler
    reference = [
        config.trajectory,
        sampler.reference_index,
        sampler.num_inference_steps,
        sampler.resize,
    ]
    return (
        _text(asdict(config.model)),
        _text([asdict(config.concept), config.personalizer, config.seed]),
        _text(reference),
    )


def cost(batch: CellBatch) -> float:
    """Rough relative cost of drawing a batch: network rows over all steps."""
    config = batch.setting.config
    rows = 1.0
    if config.injector["name"] != "none":
        rows = 1.6
    if config.guidance["name"] != "none":
        rows = 3.5
    return len(batch.cells) * rows * config.sampler.num_inference_steps


def share(batches: Sequence[CellBatch], rank: int, ranks: int) -> list[CellBatch]:
    """The part of one rank: balanced by cost, whole concepts' weights together where that fits.

    Groups that share model and weights go as a whole to the rank with the least to do; a group
    larger than a rank's fair part is cut. The order inside a rank is the given one.
    """
    if ranks == 1:
        return list(batches)
    total = sum(map(cost, batches))
    groups: dict[tuple[str, str], list[CellBatch]] = {}
    for batch in batches:
        groups.setdefault(order(batch.setting.config)[:2], []).append(batch)
    pieces: list[list[CellBatch]] = []
    few = len(groups) < 2 * ranks
    for group in groups.values():
        size = sum(map(cost, group))
        if few or size > total / ranks:
            pieces.extend([batch] for batch in group)
        else:
            pieces.append(group)
    pieces.sort(key=lambda piece: -sum(map(cost, piece)))
    loads = [0.0] * ranks
    chosen: list[list[CellBatch]] = [[] for _ in range(ranks)]
    for piece in pieces:
        least = loads.index(min(loads))
        loads[least] += sum(map(cost, piece))
        chosen[least].extend(piece)
    place = {batch.id: number for number, batch in enumerate(batches)}
    return sorted(chosen[rank], key=lambda batch: place[batch.id])


def _text(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
