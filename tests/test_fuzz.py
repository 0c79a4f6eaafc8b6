"""Whatever is typed and whatever lies in a file: no traceback, no hang, one sentence.

A case is made from its number alone, which a failure names: ``command_case(17)``. The short form
takes about 20 seconds, the slow one two minutes; ``FUZZ_FROM`` gives another first number.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import fuzzing
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import framework
from framework.cli.completion import config_keys
from framework.cli.main import main
from framework.concepts.folders import read_concept_file
from framework.concepts.images import load_image
from framework.config.folder import config_folder
from framework.config.page import load_config
from framework.config.resources import config_file, shipped_configs
from framework.errors import UserError
from framework.runs.atomic import read_json
from framework.sampling.cache.store import DiskCache
from framework.training.formats.recognise import recognise

FIRST = int(os.environ.get("FUZZ_FROM", "0"))
#: Seconds a case may take: the slowest reads the default configuration and its plug-ins.
LIMIT = 60.0
SHORT, LONG = 8.0, 50.0
LENGTHS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]
WORK = ("load_pipeline", "load_encoders", "sd15")


class Place(NamedTuple):
    """A folder with good and bad files, and what the cases are made of."""

    folder: Path
    keys: list[str]
    shipped: list[Path]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder; what loads models stops the command there instead."""
    for module in pkgutil.walk_packages(framework.__path__, "framework."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for module in list(sys.modules.values()):
        for name in WORK:
            if module.__name__.startswith("framework.") and hasattr(module, name):
                monkeypatch.setattr(module, name, fuzzing.stop_before_work)
    fuzzing.furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Place(tmp_path, config_keys(), [config_file(name) for name in shipped_configs()])
    sys.modules.pop("fuzz_part", None)


def command_case(number: int, place: Place) -> list[str]:
    """A command line, with the files it names written."""
    rng = random.Random(number)
    kind = rng.random()
    if kind < 0.25:
        return ["config", *(fuzzing.override(rng, place.keys) for _ in range(2))]
    if kind < 0.5:
        text = fuzzing.configuration_file(rng, place.shipped)
        (place.folder / "fuzz.yaml").write_bytes(text)
        words = ["ablate", "fuzz.yaml", "--dry-run", "--timed", "0"]
        return rng.choice([["config", "--config", "fuzz.yaml"], words])
    return fuzzing.command_line(rng, place.keys)


@pytest.mark.parametrize("seconds", LENGTHS)
def test_command_lines_and_configurations(place, seconds, capfd):
    statuses = {}
    for number, words in cases(command_case, place, seconds):
        capfd.readouterr()
        about = f"case {number}: {words}"
        try:
            with fuzzing.at_most(LIMIT):
                status = main(words)
        except fuzzing.Hang:
            pytest.fail(f"{about} hangs")
        shown = capfd.readouterr().err
        statuses[status] = statuses.get(status, 0) + 1
        assert status in (0, 2), f"{about}\n{shown}"
        assert "Traceback" not in shown, f"{about}\n{shown}"
        if status == 2:
            last = shown.strip().splitlines()[-1]
            assert last.startswith("dreammatcher: error: "), f"{about}\n{shown}"
            assert last[-1] not in ":(,", f"{about}: {last}"
    print(statuses)
    assert set(statuses) == {0, 2}


def file_case(number: int, place: Place) -> tuple[str, bytes]:
    """A kind of file, and a damaged content of it."""
    rng = random.Random(number)
    kind = rng.choice(["picture", "weights", "concept", "note", "json", "cache"])
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    if kind == "picture":
        suffix = rng.choice(["png", "jpg", "gif", "webp", "bmp", "tiff"])
        Image.fromarray(pixels).save(place.folder / f"good.{suffix}")
        content = (place.folder / f"good.{suffix}").read_bytes()
        return f"fuzz.{suffix}", fuzzing.damaged(content, rng)
    if kind in ("weights", "cache"):
        names = ["<new>", "text_encoder.x", "unet.lora_A.weight", "clip_l", "alpha", ""]
        tensors = {n: torch.zeros(rng.randint(0, 2), 3) for n in rng.sample(names, 2)}
        content = save(tensors, {"rank": rng.choice(["", "{", "[]", '{"r": -1}'])})
        suffix = rng.choice(["safetensors", "bin", "pt"]) if kind == "weights" else "cache"
        return f"fuzz.{suffix}", fuzzing.damaged(content, rng)
    if kind == "json":
        return "fuzz.json", fuzzing.damaged(b'{"a": [1, 2, {"b": null}], "c": "d"}', rng)
    text = fuzzing.garbled("class_name: duck\nplaceholder: '<x>'\nname: bob\n", rng)
    return f"{kind}.yaml", rng.choice(
        [text.encode(), fuzzing.configuration_file(rng, place.shipped)]
    )


def read_case(name: str, content: bytes, folder: Path) -> None:
    """Read the file as the program would."""
    file = folder / name
    file.write_bytes(content)
    if name == "concept.yaml":
        read_concept_file(folder)
    elif name == "note.yaml":
        file.rename(folder / "config.yaml")
        config_folder(load_config(None, [f"output={folder}"]), folder).open()
    elif name == "fuzz.json":
        read_json(file)
    elif name == "fuzz.cache":
        cache = DiskCache(folder / "cache", 10**6, 10)
        cache.put("key", {"a": torch.ones(2)}, "group")
        (entry,) = (folder / "cache").glob("*.safetensors")
        entry.write_bytes(content)
        assert cache.get("key", "group") is None
    elif name.endswith(("safetensors", "bin", "pt")):
        recognise(file)
    else:
        load_image(file)


@pytest.mark.parametrize("seconds", LENGTHS)
def test_damaged_files(place, seconds):
    taken = refused = 0
    for number, (name, content) in cases(file_case, place, seconds):
        folder = place.folder / f"case-{number}"
        folder.mkdir()
        try:
            with fuzzing.at_most(LIMIT):
                read_case(name, content, folder)
            taken += 1
        except UserError as error:
            refused += 1
            assert str(error).rstrip()[-1] not in ":(,", f"case {number}: {name}: {error}"
        except fuzzing.Hang:
            pytest.fail(f"case {number}: reading {name} hangs")
        except Exception as error:
            pytest.fail(
                f"case {number}: {name} ({content[:60]!r}): {type(error).__name__}: {error}"
            )
    print(f"{taken} taken, {refused} refused")
    assert taken and refused


def cases(make, place, seconds):
    """(number, case) until the time is over, 30 at least."""
    begun, number = time.monotonic(), FIRST
    while number < FIRST + 30 or time.monotonic() - begun < seconds:
        yield number, make(number, place)
        number += 1
