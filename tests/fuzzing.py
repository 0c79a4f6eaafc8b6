"""Random configurations, command lines and files, each case from a seed of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from framework.cli.arguments import Parser, add_common
from framework.cli.commands import COMMANDS
from framework.errors import UserError

#: What a value of a configuration may look like to somebody who is new, in a hurry, or a program.
VALUES = [
    "", "null", "~", "true", "no", "off", "0", "1", "2", "-1", "3.5", "1e3", "1e400", ".nan",
    ".inf", "-.inf", "0x10", "1_000", "9" * 25, "-" + "9" * 30, "100000", "1e-300", "[]", "{}",
    "[[a]]",
    "[1, 2", "{a: b}", "{a: {b: [1]}}", "[{a: 1}]", "[null]", "[1.5]", "['']", "['{}', '{}']",
    "{1: 2}", "{null: 1}", "2020-01-01", "12:30:00", "!!python/object:os.system", "!!binary aGk=",
    "&a [*a]", "*nothing", "${seed}", "${nothing}", "${oc.env:HOME}", "${sampler}", "${a.b", "${}",
    "???", "'", '"', '"\\d"', "'it''s'", "a: b", "a #b", "# only a comment", "- a", "|", ">", "%",
    "@", "`", "a\tb", "a\nb", "ü", "猫", "🐈", "\u202e", " ", "a" * 5000, "../..", "/", ".",
    "photos", "empty", "text.txt", "broken.png", "weights.safetensors", "pickle.bin", "pipe",
    "loop", "/dev/zero", "/proc/self/mem", "/proc", "nowhere/x", "a/" * 200 + "b", "package:os/x",
    "package:", "package:framework.toyworld/weights", "cycle_argmax", "none", "given", "learned",
    "fused", "os:system", "fuzz_part:Part", "no_module:X", ":", "a:b:c", "diffusion", "crop",
    "cuda:99", "cpu", "meta", "float16", "DDIMScheduler", "os", "a photo of a {}", "{} {}", "{",
    "{0}", "{a}", "%s", "<new>", "a" + "\u0301", "['.*', '(']", "[up_blocks.1]", "('a',)",
    "lambda: 0",
]  # fmt: skip
PATHS = [
    "photos", "empty", "text.txt", "broken.png", "weights.safetensors", "pickle.bin", "pipe",
    "loop", "/dev/zero", "/proc/self/mem", "/proc", "nowhere/x", "a/" * 200 + "b", "a" * 300,
    "config.yaml",
    "plan.yaml", "", ".", "/", "~nobody/x", "locked", "deep.yaml",
]  # fmt: skip
#: Commands whose work is stopped where the first model would be loaded.
COMMAND_NAMES = [
    "ablate", "bench", "compare", "config", "demo", "evaluate", "inspect", "list", "match-bench",
    "sample", "submit", "train", "train-matcher",
]  # fmt: skip


class Hang(BaseException):
    """A case took too long."""


class Reached(UserError):
    """The work would begin now: everything before it was accepted."""


def stop_before_work(*arguments: object, **options: object) -> None:
    """Stands for what loads models."""
    raise Reached("the work begins.")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise :class:`Hang` in a body that takes longer."""

    def ring(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def furnish(folder: Path) -> None:
    """Put good and bad files where the random words will find them."""
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / "0.png")
    (folder / "photos" / "concept.yaml").write_text("class_name: dog\n")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("no {} in it\n\n")
    (folder / "broken.png").write_bytes((folder / "photos" / "0.png").read_bytes()[:200])
    save_file({"<new>": torch.zeros(1, 8)}, folder / "weights.safetensors")
    (folder / "pickle.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "locked").mkdir(mode=0o000)
    (folder / "config.yaml").write_text("matcher: {name: cycle_argmax}\nseed: 3\n")
    (folder / "deep.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    plan = {"variants": {"a": {}, "b": {"matcher.cycle_threshold": 0.2}}, "concepts": ["taxi_car"]}
    (folder / "plan.yaml").write_text(json.dumps(plan))
    (folder / "fuzz_part.py").write_text("class Part:\n    pass\n")


def option_strings(name: str) -> list[argparse.Action]:
    """A command's own options."""
    module = importlib.import_module(COMMANDS[name][0])
    parser = Parser(prog=name)
    add_common(parser)
    module.add_arguments(parser)
    return [a for a in parser._actions if a.option_strings and a.dest not in ("help", "debug")]


def garbled(text: str, rng: random.Random) -> str:
    """A text with a few letters lost, doubled or exchanged."""
    letters = list(text)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(letters) + 1)
        kind = rng.randrange(3)
        if kind == 0:
            letters.insert(place, rng.choice(" :[]{}'\"#-=.,\n\t&*!|>%@`aZ09é"))
        elif letters:
            place = min(place, len(letters) - 1)
            letters[place : place + 1] = [] if kind == 1 else [letters[place]] * 2
    return "".join(letters)


def override(rng: random.Random, keys: list[str]) -> str:
    """One ``key=value``, or something near it."""
    key = rng.choice(keys)
    key = rng.choice([key, key, key, key, key.rpartition(".")[0] or key, garbled(key, rng)])
    shape = rng.choice(["{}={}"] * 5 + ["+{}={}", "~{}", "{} = {}"])
    return shape.format(key, rng.choice(VALUES))


def command_line(rng: random.Random, keys: list[str]) -> list[str]:
    """A command with random options and overrides."""
    name = rng.choice(COMMAND_NAMES)
    words = [name]
    if name in ("ablate", "submit"):
        words += [rng.choice(["components", "plan.yaml", "plan.yaml", *PATHS])]
        words += ["--dry-run", "--timed", "0"] if name == "ablate" else []
    if name == "evaluate":
        words += [rng.choice(PATHS)]
    for action in rng.choices(option_strings(name), k=rng.randint(0, 3)):
        words.append(action.option_strings[-1])
        if action.nargs != 0:
            words.append(_argument(action, rng))
    takes_overrides = name != "list"
    words += [override(rng, keys) for _ in range(rng.randint(0, 2) if takes_overrides else 0)]
    if rng.random() < 0.05:
        words[rng.randrange(len(words))] = rng.choice(VALUES)
    return words


def _argument(action: argparse.Action, rng: random.Random) -> str:
    if action.choices and rng.random() < 0.7:
        return str(rng.choice(list(action.choices)))
    if action.type is int and rng.random() < 0.8:
        return str(rng.choice([-1, 0, 1, 2, 64, 10**6, 2**63, 10**30]))
    return rng.choice([rng.choice(PATHS), rng.choice(VALUES), rng.choice(VALUES)])


def configuration_file(rng: random.Random, shipped: list[Path]) -> bytes:
    """A YAML file: a shipped one with a few letters changed, or a random tree, or noise."""
    kind = rng.random()
    if kind < 0.6:
        return garbled(rng.choice(shipped).read_text(), rng).encode()
    if kind < 0.9:
        return json.dumps(tree(rng, 3)).encode()
    return rng.randbytes(rng.randint(0, 200))


def tree(rng: random.Random, depth: int) -> object:
    """Nested lists and mappings with keys that occur in configurations."""
    names = ["base", "plugins", "model", "concept", "matcher", "name", "variants", "axes",
             "run", "prompts", "seeds", "sampler", "path", "concepts", "configs", "protocols",
             ""]  # fmt: skip
    kind = rng.randrange(4) if depth else 3
    if kind == 0:
        return [tree(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if kind < 3:
        return {rng.choice(names): tree(rng, depth - 1) for _ in range(rng.randint(0, 4))}
    return rng.choice([None, True, 0, -1, 1e308, 10**20, "", "a", "${seed}", "{}", "cycle_argmax"])


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A file's content cut short, overwritten in places, or with something in front."""
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 1:
        return rng.randbytes(rng.randint(1, 20)) + content
    place = rng.randrange(max(1, len(content) if kind == 2 else min(len(content), 300)))
    return content[:place] + rng.randbytes(rng.randint(1, 30)) + content[place + 8 :]
