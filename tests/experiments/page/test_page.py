"""The report is whole in itself and does in a browser what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from selenium import webdriver

from framework.concepts.folders import write_concept_file
from framework.experiments.cells import Cell
from framework.experiments.folder import write_picture
from framework.experiments.page import first_seeds, write_report
from framework.experiments.results import compare_variants
from framework.experiments.tables import csv_text
from framework.runs.atomic import write_atomic

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None) or (
    shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")
PROMPTS = ["a {} on the <grass>", "a {} in snow & ice"]
VARIANTS = {"plain": {"injector.name": "none"}, "ours": {}}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of a run made by hand: two variants, concepts, prompts and seeds."""
    root = tmp_path_factory.mktemp("report")
    cells, rows = [], []
    for name in ("blot", "smear"):
        Image.new("RGB", (64, 48), (200, 30, 30)).save(_made(root / "library" / name) / "0.png")
        write_concept_file(root / "library" / name, "mug")
    for variant in VARIANTS:
        for concept in ("blot", "smear"):
            for index, prompt in enumerate(PROMPTS):
                for seed in (0, 1):
                    file = f"images/{variant}/{concept}/{index:03d}-{seed}.png"
                    cell = Cell(f"{len(cells):016x}", variant, concept, index, prompt, seed, file)
                    cells.append(cell)
                    matches = [[0.2, 0.3, 0.4, 0.5, 1.0], [0.6, 0.6, 0.1, 0.1, 0.0]]
                    extra = {"matches": matches if variant == "ours" else []}
                    colour = (40 * seed, 60 * index, 90)
                    write_picture(root, cell, Image.new("RGB", (64, 64), colour), extra)
                    value = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
                    score = {"identity": value + (variant == "ours"), "clip_text": 0.2 + index}
                    about = {"id": cell.id, "variant": variant, "concept": concept, "file": file}
                    rows.append(about | {"prompt": prompt, "seed": seed} | score)
    said = {
        "name": "by-hand",
        "identity": "0" * 16,
        "description": "Made by hand.",
        "variants": VARIANTS,
        "baseline": "plain",
        "protocols": ["corrected"],
        "evaluation": {},
        "concepts": {
            name: {"name": name, "library": str(root / "library")} for name in ("blot", "smear")
        },
    }
    listed = [vars(cell) for cell in cells]
    write_atomic(root / "cells.csv", csv_text(listed))
    write_atomic(root / "plan.json", json.dumps(said))
    write_atomic(root / "scores" / "corrected.csv", csv_text(rows))
    results = compare_variants(rows, list(VARIANTS), "plain", "corrected", VARIANTS)
    costs = [{"variant": v, "seconds": 1.5, "memory_mib": 700.0, "device": "cpu"} for v in VARIANTS]
    return write_report(root, [results], costs)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_it_is_one_file_that_asks_for_nothing(page):
    text = page.read_text()
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in without_namespace and "https:" not in without_namespace
    assert not re.search(r'(?:src|href)="(?!data:)[^"{$]', text)
    assert "<grass>" not in text and "&lt;grass&gt;" in text
    assert all(" alt=" in tag for tag in re.findall(r"<img[^>]*>", text))


def test_a_large_run_shows_its_first_seeds():
    cells = [Cell(str(s), "v", "c", 0, "a {}", s, f"{s}.png") for s in range(8)]
    assert [cell.seed for cell in first_seeds(cells, 3)] == [0, 1, 2]
    assert [cell.seed for cell in first_seeds(cells, 0)] == [0]
    assert first_seeds(cells, 8) == cells


#: Chromium as root in a container, quiet and without the network.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium. Where there is none its tests are skipped, but in CI they fail."""
    if BROWSER is None or DRIVER is None:
        miss = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        miss("needs chromium and chromedriver (Debian: apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_in_a_browser(page, browser):
    by = "css selector"

    def all_of(selector):
        return browser.find_elements(by, selector)

    def variants():
        return [row.text for row in all_of("#table tbody th")]

    def choose(name, value):
        script = (
            f"const s = document.getElementById('{name}'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'));"
        )
        browser.execute_script(script, value)

    browser.set_window_size(1200, 900)
    browser.get(page.as_uri())
    assert variants() == ["plain (baseline)", "ours"]
    (sorter,) = all_of("#table thead button[data-key=identity]")
    sorter.click()
    assert variants() == ["ours", "plain (baseline)"]
    all_of("#table thead button[data-key=identity]")[0].send_keys("\ue007")  # enter
    assert variants() == ["plain (baseline)", "ours"]
    assert len(all_of("#grid .row")) == 8 and len(all_of("#grid .row:first-of-type .tile")) == 3
    whole = all_of("#table tbody")[0].text
    assert all_of("#table td small.gain") and not all_of("#table td small.loss")
    assert "▲" in whole and "I_DINO" in all_of("#grid .tile small.scores")[0].text
    options = all_of("table")[1].text
    assert "injector.name none" in options and "seconds a picture" in all_of("table")[2].text
    points = "return [...document.querySelectorAll('circle.point')].map(c => c.getAttribute('cy'))"
    before = browser.execute_script(points)
    assert len(before) == 2
    choose("prompt", PROMPTS[1])
    assert len(browser.execute_script(points)) == 2
    choose("variant", "ours")
    assert len(browser.execute_script(points)) == 1
    choose("variant", "")
    assert len(all_of("#grid .row")) == 4
    assert all_of("#table tbody")[0].text != whole and "1.200" in all_of("#table tbody")[0].text
    choose("concept", "blot")
    choose("variant", "ours")
    assert variants() == ["ours"] and len(all_of("#grid .tile button")) == 2
    picture = all_of("#grid .tile button")[0]
    assert "in snow & ice" in picture.find_element(by, "img").get_attribute("alt")
    picture.send_keys("\ue007")  # by keyboard
    assert len(all_of("dialog[open] line.match")) == 2
    (line,) = all_of("dialog[open] line[stroke-dasharray=none]")
    assert [float(line.get_attribute(key)) for key in ("x1", "y1", "x2", "y2")] == [40, 50, 132, 30]
    assert "1 of them trusted" in all_of("#box-text")[0].text
    first = all_of("#box-text")[0].text
    all_of("#next")[0].click()
    assert all_of("#box-text")[0].text != first
    browser.switch_to.active_element.send_keys("\ue00c")  # escape
    assert not all_of("dialog[open]")
    choose("variant", "plain")
    all_of("#grid .tile button")[0].click()
    assert "matches nothing" in all_of("#box-text")[0].text and not all_of("line.match")
    all_of("#close")[0].click()
    browser.set_window_size(390, 800)
    assert "scroll it sideways" in "".join(each.text for each in all_of(".hint"))
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(overflow) <= 0
    missing = "return [...document.images].filter(i => !i.alt || !i.naturalWidth).length"
    assert browser.execute_script(missing) == 0
    assert browser.get_log("browser") == []
