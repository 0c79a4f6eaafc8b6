"""Command line of the pre-training: one command a stage, or all of them.

    python -m framework.toyworld.pretrain vae --data data/world --work runs/world pictures=48000

``--data`` holds ``train`` and ``val``, written by ``python -m framework.toyworld.dataset``. The
same command again goes on from the last checkpoint. ``all`` renders the sets and runs every stage
of ``recipe.yaml``.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from framework.toyworld.dataset import RenderedWorld
from framework.toyworld.pretrain import models, recipe, stages
from framework.toyworld.pretrain.card import card
from framework.toyworld.pretrain.evaluate import EvaluateConfig, evaluate
from framework.toyworld.pretrain.export import export

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the stages and their options to a parser."""
    parser.add_argument(
        "stage",
        choices=[*stages.STAGES, "latents", "probe", "all", "restore", "export", "evaluate"],
    )
    parser.add_argument("--data", type=Path, default=Path("data/world"), help="rendered sets")
    parser.add_argument("--work", type=Path, default=Path("runs/world"), help="checkpoints, logs")
    shipped = "exported folder: written by export, read by restore and evaluate"
    parser.add_argument("--target", type=Path, default=WEIGHTS, help=shipped)
    parser.add_argument("--minutes", type=float, help="the same as minutes=...")
    parser.add_argument("options", nargs="*", metavar="key=value", help="options of the stage")


def run(arguments: argparse.Namespace) -> Any:
    """Runs the stage that the arguments name."""
    name, work = arguments.stage, arguments.work
    options = OmegaConf.to_container(OmegaConf.from_dotlist(arguments.options))
    if arguments.minutes is not None:
        options["minutes"] = arguments.minutes
    if name in stages.STAGES:
        return stages.run(name, options, arguments.data, work)
    if name == "evaluate":
        return measure(arguments.target, arguments.data, work, options)
    torch.set_num_threads(int(options.pop("threads", 1)))
    if name == "all":
        return recipe.run(recipe.read(), arguments.data, work)
    if name == "latents":
        return stages.cache(arguments.data, work, int(options.pop("size", 64)))
    if name == "probe":
        return stages.train_probe(arguments.data, work)
    if name == "restore":
        return models.restore(work, arguments.target)
    return export(work, arguments.target)


def measure(target: Path, data: Path, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Evaluates an exported folder; leaves ``quality.json`` and ``quality.md`` in ``work``."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluateConfig), options))
    torch.set_num_threads(config.threads)
    table = evaluate(target, RenderedWorld(data / "val"), config, work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "quality.json").write_text(json.dumps(table, indent=2) + "\n")
    (work / "quality.md").write_text(card(table))
    print(card(table))
    return table


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="python -m framework.toyworld.pretrain", description="Pre-training of the toy world."
    )
    add_arguments(parser)
    run(parser.parse_intermixed_args(argv))
