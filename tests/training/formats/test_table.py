"""docs/formats.md says what the tests hold: every row names a test, every test has a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
TABLE = TESTS.parent / "docs" / "formats.md"
#: Files all of whose tests must stand in the table.
WHOLE = (
    "training/formats/test_lora.py",
    "training/formats/test_folders.py",
    "backbones/test_loading.py",
)
OUTCOMES = ("works", "refused", "said", "passed over", "read by content", "drawn", "never", "`<")


def rows():
    found = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and "::" in line:
            assert len(cells) == 3, line
            found.append(tuple(cell.strip(" |") for cell in cells))
    return found


@cache
def sources(file):
    """Name -> source of every test function of a file; the text before them is under ""."""
    text = (TESTS / file).read_text(encoding="utf-8")
    tree = ast.parse(text)
    return {
        node.name: ast.get_source_segment(text, node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    } | {"": text}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2].strip("`").rpartition("::")[2][:60])
def test_a_row_is_held_by_its_test(row):
    what, outcome, test = row
    file, _, name = test.strip("`").partition("::")
    assert what
    assert name in sources(file), f"{file} has no {name}"
    assert outcome.startswith(OUTCOMES), outcome
    if "refused" in outcome:
        quoted = re.findall(r'"([^"]+)"', outcome)
        assert quoted, f"the row of {name} quotes no words of the refusal"
        plain = sources(file)[""].replace("\\", "")
        assert all(words in plain for words in quoted), f"{quoted} stand in no test of {file}"


@pytest.mark.parametrize("file", WHOLE)
def test_a_test_has_a_row(file):
    named = {row[2].strip("`") for row in rows()}
    missing = {f"{file}::{name}" for name in sources(file) if name} - named
    assert not missing, f"docs/formats.md lacks {sorted(missing)}"


def test_no_test_stands_twice():
    named = [row[2] for row in rows()]
    assert len(named) == len(set(named))
