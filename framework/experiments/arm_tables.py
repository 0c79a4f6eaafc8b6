"""What is said of two arms: the table of one concept, of many, of several methods; the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from framework.experiments.arms import BASELINE, LABELS, TREATED
from framework.experiments.results import Results
from framework.metrics.panel import SIMILARITIES
from framework.metrics.statistics import Estimate

Report = Mapping[str, Any]
#: Row -> column -> its mean over concepts.
Means = Mapping[str, Mapping[str, Estimate]]

SCALED = "scaled_identity"
TEXT_TOLERANCE = 0.025
"""By which share of the baseline's text similarity the other arm may lie below it."""


def means_of(results: Results) -> dict[str, dict[str, Estimate]]:
    """Means over concepts of both arms and of the paired difference.

    Returns:
        ``{arm: {similarity: Estimate}, "difference": {...}}``; similarities on the scale are under
        ``scaled_<similarity>``, from the concepts that have a scale.
    """
    columns = {name: name for name in SIMILARITIES}
    columns |= {f"scaled_{name}": f"{name}_scaled" for name in SIMILARITIES}
    means: dict[str, dict[str, Estimate]] = {BASELINE: {}, TREATED: {}, "difference": {}}
    for column, score in columns.items():
        entries = [results.entries[arm].get(score) for arm in (BASELINE, TREATED)]
        if entries[0] is None or entries[1] is None or entries[1].difference is None:
            continue
        means[BASELINE][column], means[TREATED][column] = (e.mean for e in entries if e)
        means["difference"][column] = entries[1].difference
    return means


def plain_means(means: Means) -> dict[str, dict[str, Any]]:
    """The means for JSON."""
    return {
        row: {name: estimate.to_dict() for name, estimate in values.items()}
        for row, values in means.items()
    }


def arms_verdict(means: Means) -> dict[str, Any]:
    """Whether identity rose and the text held.

    Returns:
        ``identity_above``: whether the mean identity similarity is above the baseline's;
        ``identity_significant``: whether its interval lies above 0 (None for one concept);
        ``text_change``: relative change of the text similarity; ``text_held``: whether that is not
        below -2.5 %.
    """
    identity = means["difference"]["identity"]
    before, change = means[BASELINE]["clip_text"].mean, means["difference"]["clip_text"].mean
    return {
        "identity_above": identity.mean > 0,
        "identity_significant": None if identity.low is None else identity.low > 0,
        "text_change": change / abs(before) if before else None,
        "text_held": change >= -TEXT_TOLERANCE * abs(before),
    }


def sentences(means: Means) -> list[str]:
    """The verdict in words, one sentence for identity and one for text."""
    found = arms_verdict(means)
    old, new, gap = (means[key]["identity"] for key in (BASELINE, TREATED, "difference"))
    where = "above" if found["identity_above"] else "not above"
    text_old, text_new = (means[key]["clip_text"] for key in (BASELINE, TREATED))
    change = found["text_change"]
    relative = "" if change is None else f" ({100 * change:+.1f} %)"
    held = "within" if found["text_held"] else "below"
    limit = f"{100 * TEXT_TOLERANCE:g} %"
    return [
        f"Identity similarity {old.mean:.3f} -> {new.mean:.3f}, {where} the baseline's: "
        f"difference {gap}.",
        f"Text similarity {text_old.mean:.3f} -> {text_new.mean:.3f}{relative}: "
        f"{held} the {limit} that may be lost.",
    ]


def concepts_table(reports: Mapping[str, Report], means: Means) -> str:
    """A row for each concept, the means over them below, as Markdown.

    Args:
        reports: concept -> its report.
        means: see :func:`means_of`.
    """
    rows = [_row("concept", *SIMILARITIES.values(), "identity, on the scale")]
    rows.append(_row(*["---"] * (len(SIMILARITIES) + 2)))
    for concept, report in reports.items():
        cells = [_change(report[BASELINE][s], report[TREATED][s]) for s in SIMILARITIES]
        places = [report[arm]["scaled"].get("identity") for arm in (BASELINE, TREATED)]
        rows.append(
            _row(concept, *cells, "-" if None in places else _change(places[0], places[1], 2))
        )
    names = [*SIMILARITIES, SCALED]
    for key, label in (*LABELS.items(), ("difference", "difference")):
        cells = [str(means[key][name]) if name in means[key] else "-" for name in names]
        rows.append(_row(f"**{label}, mean**", *cells))
    note = (
        f"Single concepts: {LABELS[BASELINE]} → {LABELS[TREATED]}. Means over concepts with 95 % "
        "intervals (bootstrap over concepts); differences are paired, picture by picture. Scale: 0 "
        "is another object, 1 is another real picture of this one."
    )
    return "\n".join([*rows, "", note, ""])


def methods_table(reports: Mapping[str, Mapping[str, Report]], means: Mapping[str, Means]) -> str:
    """Three rows a method (baseline, DreamMatcher, paired difference), as Markdown.

    Args:
        reports: method -> concept -> its report.
        means: method -> see :func:`means_of`.
    """
    lines = [_row("method", "", *SIMILARITIES.values(), "seconds a concept (processor)")]
    lines.append(_row(*["---"] * (len(SIMILARITIES) + 3)))
    for method, values in means.items():
        times = mean_seconds(list(reports[method].values()))
        spent = "-" if times["training"] is None else f"{times['training']:.0f}"
        if times["training_cpu"] is not None:
            spent += f" ({times['training_cpu']:.0f})"
        for key, label in (*LABELS.items(), ("difference", "difference")):
            first = key == BASELINE
            cells = [str(values[key][name]) for name in SIMILARITIES]
            lines.append(
                _row(method if first else "", f"**{label}**", *cells, spent if first else "")
            )
    counts = sorted({len(found) for found in reports.values()})
    pictures = sorted({sum(len(r["cells"]) for r in found.values()) for found in reports.values()})
    lines += [
        "",
        f"{'/'.join(map(str, counts))} concepts, {'/'.join(map(str, pictures))} pictures an arm "
        "and method. Means over concepts with 95 % intervals (bootstrap over concepts); "
        "differences are paired, picture by picture. Seconds: training of one concept, its class "
        "images included, by the clock and in processor time of all threads.",
        "",
    ]
    return "\n".join(lines)


def mean_seconds(reports: Sequence[Report]) -> dict[str, float | None]:
    """Mean seconds a concept: of training, wall and processor time, and of sampling an image."""

    def mean(values: Sequence[Any]) -> float | None:
        known = [float(value) for value in values if value is not None]
        return sum(known) / len(known) if known else None

    times = [report["seconds"] for report in reports]
    images = [len(report["cells"]) for report in reports]
    return {
        "training": mean([each["training"] for each in times]),
        "training_cpu": mean([each["training_cpu"] for each in times]),
        **{
            f"image_{arm}": mean(
                [t[f"sampling_{arm}"] / n for t, n in zip(times, images, strict=True)]
            )
            for arm in LABELS
        },
    }


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _change(old: float, new: float, digits: int = 3) -> str:
    return f"{old:.{digits}f} → {new:.{digits}f}"
