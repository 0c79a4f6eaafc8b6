import pytest

from framework.experiments.plots import swept_key, write_plots
from framework.experiments.results import compare_variants
from framework.experiments.tables import (
    csv_text,
    latex_table,
    markdown_table,
    table_rows,
    text_table,
)


def rows():
    """Two concepts whose level differs; 'more' adds 0.1 to identity, 'noise' adds what cancels."""
    found = []
    for concept, level in (("a", 0.2), ("b", 0.6)):
        for seed in (0, 1):
            for variant, change in (
                ("base", 0),
                ("more", 0.1),
                ("noise", 0.1 if level < 0.4 else -0.1),
            ):
                found.append(
                    {
                        "variant": variant,
                        "concept": concept,
                        "prompt": "a {}",
                        "seed": seed,
                        "identity": level + change,
                        "copy_paste": 0.5 - change,
                        "clip_text": "",
                    }
                )
    return found


SETTINGS = {"base": {}, "more": {"guidance.weight": 2.0}, "noise": {"guidance.weight": 1.0}}


def test_differences_are_paired_and_marked():
    results = compare_variants(rows(), list(SETTINGS), "base", "corrected", SETTINGS)
    assert results.scores == ("identity", "copy_paste")
    more, noise = results.entries["more"]["identity"], results.entries["noise"]["identity"]
    assert more.mean.mean == pytest.approx(0.5) and more.best and more.clear
    assert (more.difference.low, more.difference.high) == pytest.approx((0.1, 0.1))
    assert noise.clear is False and not noise.best
    assert results.entries["base"]["identity"].difference is None
    assert results.entries["more"]["copy_paste"].best  # less is better


def test_every_form_of_the_table():
    results = compare_variants(rows(), list(SETTINGS), "base", "corrected", SETTINGS)
    text, markdown, latex = text_table(results), markdown_table(results), latex_table(results)
    assert "*0.500" in text and "~" in text
    assert "**0.500" in markdown and markdown.count("\n| ") == 4
    assert r"\textbf{0.500" in latex and r"\sim" in latex and r"\bottomrule" in latex
    lines = csv_text(table_rows(results)).splitlines()
    assert lines[0].startswith("protocol,variant,score,mean,low,high") and len(lines) == 7


def test_a_swept_option_is_found_and_drawn(tmp_path):
    found = [row | {"clip_text": 0.3} for row in rows()]
    results = compare_variants(found, list(SETTINGS), "base", "corrected", SETTINGS)
    assert swept_key(results) == "guidance.weight"
    names = [path.name for path in write_plots(results, tmp_path)]
    assert names == ["trade_off.png", "trade_off.svg", "curve.png", "curve.svg"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
