"""Plans of two arms: the personalized model alone, and with DreamMatcher, from the same noise.

``demo`` is one with one concept, ``compare`` one with the concepts of a library, and the table of
several personalizers one that varies the personalizer, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.config.page import Config, to_plain
from framework.experiments.cells import Cell, Setting, slug
from framework.experiments.draw import weights_folder
from framework.experiments.folder import LOG
from framework.experiments.plan import Plan, load_plan
from framework.experiments.results import Results, compare_variants
from framework.experiments.run import weights_root
from framework.experiments.tables import read_scores
from framework.metrics.panel import SIMILARITIES
from framework.metrics.scale import Scale
from framework.runs.atomic import read_json
from framework.training.personalize import NOTE

BASELINE, TREATED = "baseline", "dreammatcher"
ARMS: dict[str, dict[str, str]] = {
    BASELINE: {"injector": "none", "guidance": "none"},
    TREATED: {},
}
LABELS = {BASELINE: "Baseline", TREATED: "DreamMatcher"}
#: How pictures are scored: as the configuration says.
PROTOCOL = "configured"
#: Keys of a configuration that a plan gives in its own way, or that are no matter to it.
_NOT_PLAN = ("prompts", "seeds", "output", "concepts", "plugins", "sources")


def arms_plan(
    config: Config,
    concepts: Sequence[str] | Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    layout: str,
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    run: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """The plan of a comparison.

    Args:
        config: DreamMatcher's configuration; the baseline is the same without injector and
            guidance.
        concepts: names in the library, or name -> its settings.
        name: of the plan.
        layout: where pictures go; ``{arm}`` and ``{method}`` may stand there.
        methods: personalizer -> its section, to vary it; None for the configured one.
        run: where and how it runs.
        overrides: ``run.key=value``.

    Raises:
        UserError: whatever cannot be used.
    """
    told = {key: value for key, value in to_plain(config).items() if key not in _NOT_PLAN}
    for key in ("name", "path"):
        told["concept"].pop(key)
    vary: dict[str, Any] = {"arm": ARMS}
    if methods is not None:
        vary = {"method": {m: {"personalizer": dict(s)} for m, s in methods.items()}} | vary
    plan = {
        "name": name,
        "description": "The personalized model alone, and with DreamMatcher, from the same noise.",
        "config": told,
        "vary": vary,
        "concepts": concepts if isinstance(concepts, Mapping) else list(concepts),
        "prompts": list(config.prompts),
        "seeds": list(config.seeds),
        "plugins": list(config.plugins),
        "protocols": [PROTOCOL],
        "scaled": True,
        "layout": layout,
        "run": dict(run or {}),
    }
    return load_plan(plan, overrides)


@dataclass(frozen=True)
class Pair:
    """What both arms drew of one concept, learned by one method.

    Attributes:
        method: name of the personalizer.
        concept: name of the concept.
        cells: arm -> its pictures, in one order.
        scores: arm -> similarity -> one number for each picture.
        scales: similarity of pictures -> its scale.
        seconds: of learning and of sampling.
    """

    method: str
    concept: str
    cells: Mapping[str, Sequence[Cell]]
    scores: Mapping[str, Mapping[str, Sequence[float]]]
    scales: Mapping[str, Scale]
    seconds: Mapping[str, Any]

    def report(self) -> dict[str, Any]:
        """For JSON: each arm's means, with their places on the scale under ``scaled`` (None where
        it cannot be used) and every picture's number under ``images``; under ``difference`` what
        DreamMatcher changes; under ``scale`` the anchors, or why there are none; cells; seconds."""
        report: dict[str, Any] = {}
        for arm, values in self.scores.items():
            means = {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
            places = {name: scale.place(means[name]) for name, scale in self.scales.items()}
            report[arm] = {**means, "scaled": places, "images": dict(values)}
        old, new = report[BASELINE], report[TREATED]
        report["difference"] = {name: new[name] - old[name] for name in self.scores[BASELINE]}
        report["difference"]["scaled"] = {
            name: None if place is None else place - old["scaled"][name]
            for name, place in new["scaled"].items()
        }
        report["scale"] = {name: scale.to_dict() for name, scale in self.scales.items()}
        report["cells"] = [
            {"file": cell.file, "prompt": cell.prompt, "seed": cell.seed}
            for cell in self.cells[TREATED]
        ]
        report["seconds"] = dict(self.seconds)
        return report


def read_pairs(plan: Plan, folder: Path) -> list[Pair]:
    """What a scored run drew and found, concept by concept; read from its folder alone."""
    rows = {row["id"]: row for row in read_scores(folder, PROTOCOL)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for setting in plan.settings:
        method = setting.config.personalizer["name"]
        found.setdefault((setting.concept, method), {})[_arm(plan, setting.variant)] = setting
    pairs = []
    for (concept, method), settings in found.items():
        note = read_json(folder / "scores" / "concepts" / PROTOCOL / f"{slug(concept)}.json")
        pairs.append(
            Pair(
                method,
                concept,
                {arm: settings[arm].cells for arm in ARMS},
                {
                    arm: {
                        name: [rows[cell.id][name] for cell in settings[arm].cells]
                        for name in SIMILARITIES
                    }
                    for arm in ARMS
                },
                {name: Scale(**entry) for name, entry in note.get("scale", {}).items()},
                _seconds(plan, folder, settings),
            )
        )
    return pairs


def results_of(plan: Plan, folder: Path, method: str) -> Results:
    """Means over concepts, and paired differences, of the arms of one method."""
    arms = {
        setting.variant: _arm(plan, setting.variant)
        for setting in plan.settings
        if setting.config.personalizer["name"] == method
    }
    rows = [
        row | {"variant": arms[row["variant"]]}
        for row in read_scores(folder, PROTOCOL)
        if row["variant"] in arms
    ]
    return compare_variants(rows, list(ARMS), BASELINE, PROTOCOL)


def learned_before(plan: Plan, folder: Path) -> bool:
    """Whether every word of a plan has been learned already."""
    learning = [s for s in plan.settings if s.config.concept.weights is None]
    words = [setting for setting in learning if setting.subject.placeholder]
    if learning and not words:
        return False  # the plain class: there is nothing to learn
    return all(_weights_note(plan, folder, setting).is_file() for setting in words)


def _weights_note(plan: Plan, folder: Path, setting: Setting) -> Path:
    root = weights_root(plan, folder)
    return weights_folder(root, setting.subject, setting.config) / NOTE


def _arm(plan: Plan, variant: str) -> str:
    """The label on the axis ``arm`` of a variant."""
    (found,) = (each for each in plan.variants if each.name == variant)
    return found.choices[-1].label


def _seconds(plan: Plan, folder: Path, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Seconds of learning, by the clock and of the processor, and of sampling with either arm."""
    learned = read_json(_weights_note(plan, folder, settings[BASELINE]))
    seconds = {"training": learned.get("seconds"), "training_cpu": learned.get("cpu_seconds")}
    notes = [read_json(path) for path in sorted((folder / LOG / "batches").glob("*.json"))]
    for arm, setting in settings.items():
        place = (setting.variant, setting.concept)
        own = [n["seconds"] for n in notes if (n.get("variant"), n.get("concept")) == place]
        seconds[f"sampling_{arm}"] = sum(own)
    return seconds
