"""The README's code runs; the commands and links of every document are good."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from framework.cli.arguments import Parser, add_common
from framework.cli.main import COMMANDS, main
from framework.config.page import load_config
from framework.experiments.plan import load_plan
from framework.interfaces import MATCHERS, Matcher
from framework.registry import REGISTRIES
from framework.types import Features, Masks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
HOUSES = ("docs", "framework", "matchers", "personalizers")
#: Every document by its path.
DOCUMENTS = {
    str(file.relative_to(ROOT)): file.read_text()
    for file in (ROOT / "README.md", *sorted(f for h in HOUSES for f in (ROOT / h).rglob("*.md")))
}


def blocks(language: str, document: str = README) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands(document: str = README) -> list[str]:
    lines = "\n".join(blocks("sh", document)).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


def programs() -> list[str]:
    """Every ``dreammatcher`` command of every document, once."""
    lines = [line for document in DOCUMENTS.values() for line in commands(document)]
    return list(dict.fromkeys(line for line in lines if line.startswith("dreammatcher")))


@pytest.fixture
def matcher_module(tmp_path, monkeypatch):
    """The README's matcher as a module in the current folder."""
    (code,) = (block for block in blocks("python") if "register" in block)
    assert len(code.strip().splitlines()) < 20
    (tmp_path / "my_matcher.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    MATCHERS.discover()
    known = dict(MATCHERS._classes)
    yield "my_matcher"
    sys.modules.pop("my_matcher", None)
    MATCHERS._classes.clear()
    MATCHERS._classes.update(known)


def test_the_matcher_works(matcher_module):
    config = load_config(None, ["matcher=my_matcher:Alike", "matcher.sharpness=2"])
    matcher = config.part("matcher")
    assert isinstance(matcher, Matcher)
    assert matcher.sharpness == 2.0
    generator = torch.Generator().manual_seed(0)
    grid = torch.nn.functional.normalize(torch.randn(2, 6, 6, 8, generator=generator), dim=-1)
    ones = torch.ones(2, 6, 6)
    same = matcher(Features(grid, grid), Masks(ones, ones))
    assert same.flow.abs().max() == 0
    torch.testing.assert_close(same.confidence, ones)
    shifted = matcher(Features(grid, grid.roll(1, dims=2)), Masks(ones, ones))
    assert (shifted.flow[:, :, :-1] == torch.tensor([1.0, 0.0])).all()
    other = grid.roll(1, dims=3)
    assert matcher(Features(grid, other), Masks(ones, ones)).confidence.max() < 1


@pytest.mark.parametrize("line", programs())
def test_commands_are_accepted(line, matcher_module):
    name, *words = shlex.split(line)[1:]
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "COMMANDS"):
        name, *words = words
        module = importlib.import_module(module.COMMANDS[name][0])
    parser = Parser(prog=name)
    add_common(parser)
    module.add_arguments(parser)
    args = parser.parse_all(words)
    if "data/" in line:  # data that nobody has here
        return
    if hasattr(args, "plan"):
        load_plan(args.plan, args.overrides)
    elif hasattr(args, "config"):
        load_config(args.config or None, args.overrides)


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


def photos(folder: Path) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")


def test_the_python_example_runs(sd1, tmp_path, monkeypatch, capsys):
    (code,) = (block for block in blocks("python") if "compose" in block)
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    sd1.save_pretrained("path/to/stable-diffusion")
    assert "overrides = [" in code
    quick = '"sampler.num_inference_steps=6", "mask.resolution=8"'
    exec(code.replace("overrides = [", f"overrides = [{quick}, "), {})
    assert Image.open("dog.png").size == (128, 128)
    assert capsys.readouterr().out == "torch.Size([4, 16, 16, 2])\n"


#: What makes each command of the README small; everything else is as it stands there.
SMALL = {
    "demo": "personalizer.steps=2 sampler.num_inference_steps=6 injector.start_step=2 "
    "'prompts=[\"a photo of a {}\"]' seeds=[0]",
    "match-bench": "--pairs 2 --steps 1 sampler.num_inference_steps=6",
    "train": "personalizer.steps=2",
    "sample": "sampler.num_inference_steps=6 mask.resolution=8",
    "list": "",
    "check": "",
}


@pytest.mark.slow
def test_every_command_works_in_its_order(matcher_module, sd1, tmp_path, capsys):
    """In one folder, as a reader types them; no run stands in the way of the next."""
    photos(tmp_path / "photos")
    sd1.save_pretrained("path/to/stable-diffusion")
    lines = ["dreammatcher demo" if line == "make demo" else line for line in commands()]
    typed = [shlex.split(line)[1:] for line in lines if line.startswith("dreammatcher")]
    assert {words[0] for words in typed} == set(SMALL)
    for words in typed:
        status = main([*words, *shlex.split(SMALL[words[0]])])
        assert status == 0, f"{words}\n{capsys.readouterr().err}"
        assert "warning" not in capsys.readouterr().err.lower()
    folders = {path.name for path in (tmp_path / "runs" / "demo").iterdir()}
    assert folders == {
        "peacock_vase",
        "peacock_vase-2",
        "peacock_vase-3",
        "circus_teapot",
        "photos",
    }
    drawn = sorted(path.name for path in (tmp_path / "runs/sample/photos").glob("*.png"))
    assert drawn == ["000-0.png", "000-1.png"]


def test_sampling_with_the_matcher(matcher_module, sd1, tmp_path):
    photos(tmp_path / "photos")
    sd1.save_pretrained("model")
    words = ["sample", "--config", "models/sd1", "model.path=model", "concept.path=photos"]
    words += ["concept.class_name=dog", 'concept.placeholder=""', "sampler.num_inference_steps=3"]
    words += ["mask.resolution=8", "injector.start_step=1"]
    assert main([*words, "--output", "stock"]) == 0
    assert main([*words, "--output", "mine", "matcher=my_matcher:Alike"]) == 0
    stock, mine = (np.asarray(Image.open(f"{name}/000-0.png")) for name in ("stock", "mine"))
    assert stock.shape == mine.shape
    assert (stock != mine).any()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_named_files_exist(document):
    text = DOCUMENTS[document]
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (ROOT / document).parent.joinpath(link).exists(), link
    houses = "framework|configs|tests|docs|matchers|personalizers|notebooks"
    for name in re.findall(rf"(?<![\w/])(?:{houses})/[\w/.]*", text):
        assert (ROOT / name.rstrip(".")).exists(), name


def test_headings_that_are_linked_exist():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_every_kind_of_part_is_in_the_diagram():
    (diagram,) = blocks("")
    for kind, registry in REGISTRIES.items():
        assert f"{kind}:" in diagram
        assert registry.package.replace(".", "/") + "/" in diagram
