"""The benchmark: every extractor with every matcher, at every chosen step, on every pair."""

from __future__ import annotations

import json
import logging
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from framework.atomic import write_atomic
from framework.config import Config, load_config, to_plain
from framework.errors import UserError
from framework.interfaces import FeatureExtractor, Matcher
from framework.matchbench.folder import hash_of
from framework.matchbench.measures import at_points, predicted_points, score_points
from framework.matchbench.memory import peak_memory
from framework.matchbench.observe import Look, Observatory, Prepared, check_size
from framework.matchbench.pairs import Source, stack, truth_on_grid
from framework.progress import no_progress, progress
from framework.registry import REGISTRIES
from framework.session import match_on_grid
from framework.step import make_views
from framework.types import Correspondence, Views

logger = logging.getLogger(__name__)

SETTINGS, GROUPS, LEFT_OUT = "bench.json", "groups", "left_out.json"
#: What stands for the extractor where a matcher looks at no descriptors.
NO_EXTRACTOR = "(none)"
ALL = "all"

Record = dict[str, Any]


@dataclass
class Entry:
    """An extractor or a matcher that takes part.

    Attributes:
        label: name and the options that were given.
        section: its complete section of the configuration.
        part: the object.
        memory: bytes its tensors take at most, for all targets of a group; 0 before it was tried.
    """

    label: str
    section: dict[str, Any]
    part: Any
    memory: int = 0


@dataclass
class Field:
    """Who takes part.

    Attributes:
        extractors: in the order given.
        matchers: likewise.
        left_out: combinations that cannot run, (extractor, matcher) -> why.
    """

    extractors: list[Entry]
    matchers: list[Entry]
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)

    def matchers_of(self, extractor: Entry) -> list[tuple[str, Entry]]:
        """Matchers that run with an extractor, and what the extractor is called beside each.

        A matcher without descriptors runs once, with the first extractor.
        """
        first = extractor is self.extractors[0]
        pairs = []
        for matcher in self.matchers:
            described = matcher.part.needs_features
            label = extractor.label if described else NO_EXTRACTOR
            if (described or first) and (label, matcher.label) not in self.left_out:
                pairs.append((label, matcher))
        return pairs


def entries(config: Config, kind: str, words: Sequence[str]) -> list[Entry]:
    """Build the parts that a user named.

    Args:
        config: options of a part that the configuration itself names are taken from there.
        kind: ``extractor`` or ``matcher``.
        words: each ``NAME``, ``NAME,NAME``, ``all``, or ``NAME key=value ...``; none: the
            configured one.

    Raises:
        UserError: a name or an option is unknown, a part cannot be built (unless it came with
            ``all``), or one is named twice.
    """
    found: list[Entry] = []
    own = getattr(config, kind)["name"]
    for word in words or [own]:
        pieces = shlex.split(word)
        if not pieces:
            raise UserError(f"--{kind} is empty; expected a name, e.g. {own}.")
        names = [name for name in pieces[0].split(",") if name]
        if names == [ALL]:
            for name in REGISTRIES[kind].names():
                try:
                    found.append(_entry(config, kind, name, []))
                except UserError as error:
                    logger.warning("%s is left out: %s", name, error)
            continue
        if len(names) > 1 and pieces[1:]:
            raise UserError(f"--{kind} '{word}' gives options to several names; give each alone.")
        found += [_entry(config, kind, name, pieces[1:]) for name in names]
    labels = [entry.label for entry in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--{kind} names '{label}' twice; give each once.")
    return found


def _entry(config: Config, kind: str, name: str, options: list[str]) -> Entry:
    for option in options:
        if "=" not in option:
            raise UserError(f"--{kind} '{name}' has the option '{option}'; expected key=value.")
    same = getattr(config, kind)["name"] == name
    changes = [] if same else [f"{kind}={name}"]
    chosen = load_config(config, [*changes, *(f"{kind}.{option}" for option in options)])
    label = " ".join([name, *options])
    return Entry(label, dict(getattr(chosen, kind)), chosen.part(kind))


def choose_steps(text: str, total: int) -> list[int]:
    """Sampling steps to look at: ``all``, a number of evenly spread ones, or a list ``0,5,10``.

    Raises:
        UserError: no such steps.
    """
    try:
        numbers = [int(word) for word in text.split(",")] if text != ALL else [total]
    except ValueError:
        numbers = []
    if "," not in text and len(numbers) == 1 and numbers[0] >= 1:
        count = min(numbers[0], total)
        if count == 1:
            return [total // 2]
        return sorted({round(k * (total - 1) / (count - 1)) for k in range(count)})
    if "," in text and numbers and all(0 <= number < total for number in numbers):
        return sorted(set(numbers))
    raise UserError(
        f"--steps is '{text}'; expected 'all', a number of steps, or indices from 0 to "
        f"{total - 1} joined by commas."
    )


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
        open_folder(self.folder, self.about)
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
        kept: list[Entry] = []
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

    def _try_matchers(self, prepared: Prepared, extractor: Entry, look: Look, first: bool) -> None:
        for matcher in self.field.matchers:
            described = matcher.part.needs_features
            if not described and not first:
                continue
            label = extractor.label if described else NO_EXTRACTOR
            try:
                memory = peak_memory(
                    lambda m=matcher.part: self._match(m, look, self._views(m, look, prepared)),
                    self.observatory.model.device,
                )
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
        self, matcher: Matcher, look: Look, prepared: Prepared
    ) -> tuple[Correspondence, float]:
        self.observatory.synchronise()
        started = time.perf_counter()
        views = self._views(matcher, look, prepared)
        matches = self._match(matcher, look, views)
        self.observatory.synchronise()
        return matches, time.perf_counter() - started

    def _match(self, matcher: Matcher, look: Look, views: Views | None) -> Correspondence:
        features = look.features if matcher.needs_features else None
        with torch.no_grad():
            return match_on_grid(features, look.masks, self.observatory.grid, matcher, views)

    def _views(self, matcher: Matcher, look: Look, prepared: Prepared) -> Views | None:
        """What a matcher asks for beside descriptors."""
        truth = None
        if matcher.needs_truth:
            device = look.masks.target.device
            targets = prepared.group.targets
            known = stack([truth_on_grid(target, self.observatory.grid) for target in targets])
            truth = Correspondence(known.flow.to(device), known.confidence.to(device))
        if matcher.needs_views:
            return make_views(look.step, truth)
        return None if truth is None else Views(truth=truth)

    def _records(
        self,
        prepared: Prepared,
        look: Look,
        extractor: str,
        matcher: Entry,
        matches: Correspondence,
        spent: tuple[float, float],
    ) -> list[Record]:
        """One record for each target.

        A record names the combination, ``step`` and ``timestep``, the pair's ``category`` and
        ``difference``, has every measure of :func:`score_points` (null where there is none), and
        milliseconds for one pair.
        """
        records = []
        count = len(prepared.group.targets)
        for place, target in enumerate(prepared.group.targets):
            flow, confidence = matches.flow[place].cpu(), matches.confidence[place].cpu()
            scores = score_points(
                predicted_points(flow, target.points, self.observatory.size),
                at_points(confidence, target.points, self.observatory.size),
                target.truth,
                target.visible,
                target.box,
                torch.tensor(target.scale),
            )
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


def describe_run(config: Config, taking_part: Field, **more: Any) -> dict[str, Any]:
    """Everything the records depend on, as plain values."""
    plain = to_plain(config)
    sampler = {k: v for k, v in plain["sampler"].items() if k != "batch_size"}
    return {
        "model": {k: v for k, v in plain["model"].items() if k != "notes"},
        "sampler": sampler,
        "trajectory": plain["trajectory"],
        "mask": plain["mask"],
        "extractors": {entry.label: entry.section for entry in taking_part.extractors},
        "matchers": {entry.label: entry.section for entry in taking_part.matchers},
        **more,
    }


def open_folder(folder: Path, about: Mapping[str, Any]) -> None:
    """Make a folder for a benchmark, or go on in one.

    Raises:
        UserError: it holds another benchmark, or something else.
    """
    path = folder / SETTINGS
    here = json.loads(json.dumps(about))
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged; remove its folder, or give another.") from error
        differing = [k for k in {**there, **here} if there.get(k) != here.get(k)]
        if differing:
            raise UserError(
                f"The output folder '{folder}' holds another benchmark: {', '.join(differing)} "
                "differ. Give another --output, or remove that one."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"The output '{folder}' is not empty and holds no benchmark; give a new folder."
        )
    write_atomic(path, json.dumps(here, indent=2) + "\n")


def read_records(path: Path) -> list[Any] | None:
    """A list from a file; None if there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) else None
