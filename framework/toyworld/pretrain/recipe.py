"""The recipe of the shipped weights as one command: renders, every stage, the exported folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from framework.toyworld.dataset import render_dataset
from framework.toyworld.pretrain import stages
from framework.toyworld.pretrain.export import export

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).with_name("recipe.yaml")


def read(path: Path = RECIPE) -> dict[str, Any]:
    """Reads a recipe: ``render`` (set -> objects, views, seed) and ``stages`` (a list)."""
    return OmegaConf.to_container(OmegaConf.load(path))


def run(recipe: dict[str, Any], data: Path, work: Path, workers: int = 1) -> Path:
    """Runs a recipe; the same call goes on where it stopped.

    Args:
        recipe: What :func:`read` gives.
        data: Folder of the rendered sets.
        work: Working folder.
        workers: Processes that render.

    Returns:
        The exported folder, ``work / "export"``.
    """
    for name, settings in recipe["render"].items():
        logger.info("renders %s: %s", name, settings)
        render_dataset(data / name, workers=workers, **settings)
    for number, step in enumerate(recipe["stages"], 1):
        options = dict(step)
        name, start = options.pop("stage"), time.monotonic()
        logger.info("stage %d of %d: %s %s", number, len(recipe["stages"]), name, options)
        if name == "probe":
            stages.train_probe(data, work)
        else:
            stages.run(name, options, data, work)
        logger.info("%s took %.1f minutes", name, (time.monotonic() - start) / 60.0)
    return export(work, work / "export")
