"""The benchmark: every extractor with every matcher, at every chosen step, on every pair."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from framework.errors import UserError
from framework.interfaces import BaseMatcher, FeatureExtractor
from framework.interfaces.step import make_views
from framework.matchbench.calibration import tally
from framework.matchbench.field import ALL, NO_EXTRACTOR, Entrant, Field
from framework.matchbench.folder import hash_of
from framework.matchbench.measures import at_points, predicted_points, right_points, score_points
from framework.matchbench.memory import peak_memory
from framework.matchbench.observe import Look, Observatory, Prepared, check_size
from framework.matchbench.pairs import Source, stack, truth_on_grid
from framework.matchbench.run_folder import GROUPS, LEFT_OUT, bench_folder, read_records
from framework.runs.atomic import write_atomic
from framework.runs.progress import no_progress, progress
from framework.sampling.matching import match_on_grid
from framework.types import Correspondence, Features, Views

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class Bench:
    """Runs the benchmark into a folder; what is finished there is kept.

    Args:
        observatory: shows groups to the model.
        source: the groups.
        taking_part: extractors and matchers.
        steps: indices of sampling steps.
        seed: of the targets' noise.
        folder: gets one file a group.
        about: everything the records depend on; a folder made with something else is refused.
    """

    def __init__(
        self,
        observatory: Observatory,
        source: Source,
        taking_part: Field,
        steps: Sequence[int],
        seed: int,
        folder: Path,
        about: Mapping[str, Any],
    ) -> None:
        self.observatory, self.source, self.field = observatory, source, taking_part
        self.steps, self.seed, self.folder = list(steps), seed, folder
        self.about = dict(about)

    def run(self) -> list[Record]:
        """Measure what is not measured yet.

        Returns:
            One record for each combination, step and pair; see :meth:`_record`.

        Raises:
            UserError: no combination can run, or the folder holds another benchmark.
        """
        bench_folder(self.folder, self.about).open()
        records: list[Record] = []
        rehearsed = False
        for index in progress(range(len(self.source)), "matching", unit="group"):
            path = self.folder / GROUPS / f"{index:04d}.json"
            done = read_records(path)
            if done is None:
                group = self.source[index]
                with no_progress():
                    prepared = self.observatory.prepare(group, hash_of(self.seed, index))
                    if not rehearsed:
                        self.rehearse(prepared)
                        rehearsed = True
                    done = self._group(prepared)
                write_atomic(path, json.dumps(done))
            records += done
        for extractor, matcher, why in read_records(self.folder / LEFT_OUT) or []:
            self.field.left_out[extractor, matcher] = why
        return records

    def rehearse(self, prepared: Prepared) -> None:
        """Try every combination once: drop those that cannot run, note the memory of the others.

        Raises:
            UserError: none can run.
        """
        check_size(prepared.group, self.observatory.size)
        kept: list[Entrant] = []
        device = self.observatory.model.device
        for extractor in self.field.extractors:
            looks = self.observatory.look(prepared, extractor.part, self.steps[:1])
            try:
                look = next(looks)
                extractor.memory = peak_memory(_caller(extractor.part, look.step), device)
            except UserError as error:
                self._leave_out(extractor.label, ALL, error)
                continue
            finally:
                looks.close()  # type: ignore[attr-defined]
            kept.append(extractor)
            self._try_matchers(prepared, extractor, look, first=len(kept) == 1)
        self.field.extractors = kept
        if not any(self.field.matchers_of(extractor) for extractor in kept):
            raise UserError(next(iter(self.field.left_out.values())))
        notes = [[*names, why] for names, why in self.field.left_out.items()]
        write_atomic(self.folder / LEFT_OUT, json.dumps(notes, indent=2) + "\n")

    def _try_matchers(
        self, prepared: Prepared, extractor: Entrant, look: Look, first: bool
    ) -> None:
        for matcher in self.field.matchers:
            described = matcher.part.needs.features
            if not described and not first:
                continue
            label = extractor.label if described else NO_EXTRACTOR
            try:
                if described:
                    matcher.part.check_extractor(extractor.part, self.observatory.model)
                match = partial(self._match_look, matcher.part, look, prepared)
                memory = peak_memory(match, self.observatory.model.device)
                matcher.memory = max(matcher.memory, memory)
            except UserError as error:
                self._leave_out(label, matcher.label, error)

    def _leave_out(self, extractor: str, matcher: str, error: UserError) -> None:
        self.field.left_out[extractor, matcher] = str(error)
        logger.warning("%s with %s is left out: %s", extractor, matcher, error)

    def _group(self, prepared: Prepared) -> list[Record]:
        records: list[Record] = []
        for extractor in self.field.extractors:
            matchers = self.field.matchers_of(extractor)
            if not matchers:
                continue
            for look in self.observatory.look(prepared, extractor.part, self.steps):
                for label, matcher in matchers:
                    matches, seconds = self._timed_match(matcher.part, look, prepared)
                    spent = (0.0 if label == NO_EXTRACTOR else look.seconds, seconds)
                    records += self._records(prepared, look, label, matcher, matches, spent)
        return records

    def _timed_match(
        self, matcher: BaseMatcher, look: Look, prepared: Prepared
    ) -> tuple[Correspondence, float]:
        started = self.observatory.seconds()
        views = self._views(matcher, look, prepared)
        matches = self._match(matcher, look, views)
        return matches, self.observatory.seconds() - started

    def _match_look(self, matcher: BaseMatcher, look: Look, prepared: Prepared) -> Correspondence:
        return self._match(matcher, look, self._views(matcher, look, prepared))

    def _match(self, matcher: BaseMatcher, look: Look, views: Views | None) -> Correspondence:
        features = None
        if matcher.needs.features:  # as new tensors, so that none profits from an earlier one
            features = Features(look.features.target.detach(), look.features.reference.detach())
        matcher.begin_step(look.context)
        with torch.no_grad():
            return match_on_grid(features, look.masks, self.observatory.grid, matcher, views)

    def _views(self, matcher: BaseMatcher, look: Look, prepared: Prepared) -> Views | None:
        """What a matcher asks for beside descriptors."""
        truth = None
        if matcher.needs.truth:
            device = look.masks.target.device
            targets = prepared.group.targets
            known = stack([truth_on_grid(target, self.observatory.grid) for target in targets])
            truth = Correspondence(known.flow.to(device), known.confidence.to(device))
        if matcher.needs.pictures:
            return make_views(look.step, truth)
        return None if truth is None else Views(truth=truth)

    def _records(
        self,
        prepared: Prepared,
        look: Look,
        extractor: str,
        matcher: Entrant,
        matches: Correspondence,
        spent: tuple[float, float],
    ) -> list[Record]:
        """One record for each target.

        A record names the combination, ``step`` and ``timestep``, the pair's ``category`` and
        ``difference``, has every measure of :func:`score_points` (null where there is none), the
        ``tally`` of its points by confidence, and milliseconds for one pair.
        """
        records = []
        count = len(prepared.group.targets)
        for place, target in enumerate(prepared.group.targets):
            flow, confidence = matches.flow[place].cpu(), matches.confidence[place].cpu()
            predicted = predicted_points(flow, target.points, self.observatory.size)
            sure = at_points(confidence, target.points, self.observatory.size)
            known = target.truth, target.visible, target.box, torch.tensor(target.scale)
            scores = score_points(predicted, sure, *known)
            records.append(
                {
                    "extractor": extractor,
                    "matcher": matcher.label,
                    "step": look.step.index,
                    "timestep": look.step.timestep,
                    "pair": f"{prepared.group.name}/{place}",
                    "category": target.category,
                    "difference": target.difference,
                    "extract_ms": 1000 * spent[0] / count,
                    "match_ms": 1000 * spent[1] / count,
                    "memory": max(matcher.memory, self._memory_of(extractor)) / count,
                    "tally": tally(sure, right_points(predicted, *known)),
                    **{k: None if math.isnan(v) else round(v, 6) for k, v in scores.items()},
                }
            )
        return records

    def _memory_of(self, label: str) -> int:
        return next((e.memory for e in self.field.extractors if e.label == label), 0)


def _caller(extractor: FeatureExtractor, step: Any) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return extractor(step)

    return call
