"""Train the `learned` matcher's head over an extractor, on pairs whose correspondence is known.

Without --images the pairs are renders of the embedded world; with it, warps of any pictures. The
same command again goes on from the last checkpoint. What it writes is given to the matcher with
matcher.weights=FILE, beside the extractor it was trained with.

examples:
  dreammatcher train-matcher
  dreammatcher train-matcher --images PHOTOS --config models/sd1 model.path=FOLDER \\
      extractor.pca=null
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.cli.arguments import add_config
from framework.errors import UserError, check_range

if TYPE_CHECKING:
    from framework.matchbench.observe import Observatory
    from framework.matchbench.pairs import Source

CONFIG = "train-matcher"
OUTPUT, FILE = "runs/train-matcher", "head.safetensors"
#: Keeps training objects apart from those of the benchmark.
STREAM = 20240618
TARGETS = 4
#: Arguments that the result depends on.
TOLD = ("updates", "learning_rate", "looks", "repeats", "dim", "blocks", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--images", metavar="DIR", help="synthetic warps of these pictures instead")
    parser.add_argument("--updates", type=int, default=700, help="of the weights (default 700)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="at its peak")
    parser.add_argument("--dim", type=int, default=96, help="channels the head puts out")
    parser.add_argument("--blocks", type=int, default=3, help="residual blocks of the head")
    parser.add_argument("--looks", type=int, default=3, help="steps at which each group is shown")
    parser.add_argument("--repeats", type=int, default=0, help="earlier pairs after each new one")
    parser.add_argument("--seed", type=int, default=0, help="of pairs, noise and the head's start")
    parser.add_argument("--output", metavar="DIR", help=f"where results go (default {OUTPUT})")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Train, write the head."""
    from framework.config.page import load_config

    for name, low, high in (
        ("updates", 1, None),
        ("dim", 1, 4096),
        ("blocks", 0, 64),
        ("looks", 1, 1000),
        ("repeats", 0, 1000),
        ("seed", 0, 2**31 - 1),
    ):
        check_range(f"--{name}", getattr(args, name), low, high)
    if not 0 < args.learning_rate < 10:
        raise UserError(f"--learning-rate is {args.learning_rate}; expected more than 0.")
    config = load_config([CONFIG, *(args.config or [])], args.overrides)
    if config.extractor.get("pca") is not None:
        raise UserError(
            f"extractor.pca is {config.extractor['pca']}, whose axes change from pair to pair, so "
            "that nothing can be learned about its channels. Use extractor.pca=null."
        )

    from framework.backbones.loading import load_pipeline
    from framework.config.folder import open_run
    from framework.matchbench.learn import MatchingSystem, new_head, task_identity, train_head
    from framework.matchbench.lessons import Lessons
    from framework.matchbench.observe import Observatory
    from framework.training.system import Optimization
    from matchers.learned import save_head

    config = replace(config, output=args.output or config.output)
    observatory = Observatory(load_pipeline(config.model), config)
    source = make_source(args, observatory)
    folder = open_run(config, OUTPUT)
    extractor = config.part("extractor")
    lessons = Lessons(observatory, extractor, source, args.looks, args.repeats, args.seed)
    width = next(lessons.group(0)).target.shape[-1]
    about = {name: getattr(args, name) for name in TOLD}
    about["images"] = args.images and str(Path(args.images).expanduser().resolve())
    warmup = min(20, args.updates // 4)
    plan = Optimization(
        args.updates, args.learning_rate, "cosine", warmup, weight_decay=0.01, gradient_clip=1.0
    )
    system = MatchingSystem(
        new_head(width, args.dim, args.blocks, args.seed),
        plan,
        observatory.size,
        task_identity(config, about),
    )
    started = time.monotonic()
    train_head(system, lessons, folder)
    signature = extractor.signature(observatory.model)
    note = {"extractor": signature, "model": config.model.path, "updates": args.updates}
    path = save_head(system.head, folder / FILE, note)
    print(f"Done in {time.monotonic() - started:.0f} s. Weights: {path}")
    print(f"Use them:\n  dreammatcher match-bench --matcher 'learned weights={path}' ...")
    return 0


def make_source(args: argparse.Namespace, observatory: Observatory) -> Source:
    """Where the pairs come from.

    Raises:
        UserError: the folder cannot be used.
    """
    from framework.matchbench.folder import WarpedPictures
    from framework.matchbench.world import WorldPairs

    size, grid = observatory.size, observatory.grid
    if args.images:
        return WarpedPictures(args.images, None, TARGETS, args.seed, size, grid)
    return WorldPairs(1, TARGETS, args.seed, size[0], grid[0], STREAM)
