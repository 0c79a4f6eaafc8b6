"""How good extractors and matchers are inside the diffusion process, against known truth.

Pairs of pictures are noised to sampling steps as the sampler sees them, go through the network, the
extractors and the matchers, and the matches are compared with where the points really lie. Without
--images or --spair the pairs are renders of the embedded world: the same object from another side,
in another place, with other accessories. What is finished is kept; the same command goes on.

examples:
  dreammatcher match-bench
  dreammatcher match-bench --extractor diffusion,dino --matcher cycle_argmax,mutual_nn
  dreammatcher match-bench --matcher cycle_argmax --matcher "cycle_argmax cycle_threshold=0.1"
  dreammatcher match-bench --matcher all --steps all --output runs/every-matcher
  dreammatcher match-bench --images PHOTOS
  dreammatcher match-bench --spair SPair-71k --pairs 200 --config models/sd1 model.path=FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config, config_of
from framework.errors import UserError, check_range

if TYPE_CHECKING:
    from framework.config.page import Config
    from framework.matchbench.bench import Bench
    from framework.matchbench.observe import Observatory
    from framework.matchbench.pairs import Source

#: Default numbers of pairs, so that a run takes two to three minutes on two cores.
PAIRS = {"world": 56, "images": 32, "spair": 36}
STEPS = "8"
OUTPUT = "runs/match-bench"
FILES = ("results.json", "table.md", "pck_over_time.png", "calibration.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    for kind in ("extractor", "matcher"):
        parser.add_argument(
            f"--{kind}",
            action="append",
            metavar="NAME",
            help=f"NAME, NAME,NAME, all, or 'NAME key=value ...'; may be repeated (default: the "
            f"configured {kind})",
        )
    parser.add_argument("--images", metavar="DIR", help="synthetic warps of these pictures instead")
    parser.add_argument("--spair", metavar="DIR", help="pairs of SPair-71k, its root, instead")
    parser.add_argument(
        "--split", choices=("trn", "val", "test"), help="of SPair-71k (default test)"
    )
    parser.add_argument(
        "--class-name", metavar="NOUN", default="", help="what --images show, for prompt and masks"
    )
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help=f"number of pairs, rounded up to whole references (default {PAIRS['world']})",
    )
    parser.add_argument(
        "--steps",
        default=STEPS,
        metavar="N|all|0,5,10",
        help=f"sampling steps: how many, evenly spread, or which (default {STEPS})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of pairs and noise")
    parser.add_argument("--output", metavar="DIR", help=f"where results go (default {OUTPUT})")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, write, print."""
    config = config_of(args)
    kind = _kind(args)
    check_range("--pairs", args.pairs, 1, 1_000_000)
    check_range("--seed", args.seed, 0, 2**31 - 1)

    from framework.backbones.loading import load_pipeline
    from framework.matchbench.bench import Bench
    from framework.matchbench.field import Field, choose_steps, entries
    from framework.matchbench.observe import Observatory
    from framework.matchbench.run_folder import bench_folder, describe_run

    taking_part = Field(
        entries(config, "extractor", args.extractor or []),
        entries(config, "matcher", args.matcher or []),
    )
    steps = choose_steps(args.steps, config.sampler.num_inference_steps)
    observatory = Observatory(load_pipeline(config.model), config)
    pairs = args.pairs or PAIRS[kind]
    source = make_source(kind, args, observatory, pairs)
    about = describe_run(
        config,
        taking_part,
        source={
            "kind": kind,
            "folder": str(Path(args.images or args.spair or ".").expanduser().resolve()),
            "split": (args.split or "test") if kind == "spair" else None,
            "class_name": args.class_name,
            "pairs": pairs,
        },
        steps=steps,
        seed=args.seed,
    )
    given = args.output or config.output
    place = bench_folder(Path(given or OUTPUT).expanduser(), about)
    folder = place.path if given else place.free().path
    bench = Bench(observatory, source, taking_part, steps, args.seed, folder, about)
    report(bench, bench.run(), config, kind)
    return 0


def _kind(args: argparse.Namespace) -> str:
    if args.images and args.spair:
        raise UserError("Got --images and --spair; expected at most one of them.")
    kind = "images" if args.images else "spair" if args.spair else "world"
    if args.split and kind != "spair":
        raise UserError("--split is of SPair-71k; leave it out without --spair.")
    if args.class_name and kind != "images":
        raise UserError("--class-name says what --images show; leave it out without --images.")
    if args.class_name and not args.class_name.strip():
        raise UserError("--class-name is empty; give the plain noun, e.g. --class-name dog.")
    return kind


def make_source(
    kind: str, args: argparse.Namespace, observatory: Observatory, pairs: int
) -> Source:
    """Where the pairs come from.

    Raises:
        UserError: a folder cannot be used, or the world's square renders do not suit the model.
    """
    from framework.matchbench.folder import WarpedPictures
    from framework.matchbench.spair import SPairPairs
    from framework.matchbench.warps import WARPS
    from framework.matchbench.world import VIEWS, WorldPairs

    size, grid, seed = observatory.size, observatory.grid, args.seed
    if kind == "spair":
        return SPairPairs(args.spair, pairs, args.split or "test", seed, size)
    if kind == "images":
        prompt = f"a photo of a {args.class_name}" if args.class_name else ""
        targets = min(pairs, len(WARPS))
        groups = -(-pairs // targets)
        return WarpedPictures(
            args.images, groups, targets, seed, size, grid, prompt, args.class_name
        )
    if size[0] != size[1]:
        raise UserError(
            f"The world's renders are square; sampler.height and sampler.width are {size[0]} and "
            f"{size[1]}. Set both to the same."
        )
    targets = min(pairs, len(VIEWS))
    return WorldPairs(-(-pairs // targets), targets, seed, size[0], grid[0])


def report(bench: Bench, records: list[dict[str, Any]], config: Config, kind: str) -> None:
    """Write :data:`FILES`; print the tables."""
    from rich.console import Console

    from framework.matchbench.report import (
        KEY,
        draw_curves,
        main_table,
        matching_markdown,
        split_table,
    )
    from framework.matchbench.summary import summarise_records
    from framework.runs.atomic import write_atomic
    from framework.runs.machine import versions

    folder, rows = bench.folder, summarise_records(records)
    pairs = len({record["pair"] for record in records})
    where = {"world": "renders", "images": "warped pictures", "spair": "SPair-71k"}[kind]
    title = f"{pairs} pairs ({where}), {len(bench.steps)} of {_total(config)} sampling steps"
    left_out = [
        {"extractor": extractor, "matcher": matcher, "why": why}
        for (extractor, matcher), why in bench.field.left_out.items()
    ]
    results = {
        "about": bench.about,
        "rows": rows,
        "left_out": left_out,
        "versions": versions(),
        "device": str(bench.observatory.model.device),
    }
    write_atomic(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_atomic(folder / "table.md", matching_markdown(rows))
    curves = [
        {"extractor": row["extractor"], "matcher": bench.about["matchers"][row["matcher"]]}
        | {"curve": row["curve"]}
        for row in rows
    ]
    lines = ",\n".join(json.dumps(curve) for curve in curves if curve["curve"])
    write_atomic(folder / "calibration.json", f"[\n{lines}\n]\n")
    draw_curves(rows, folder / "pck_over_time.png", f"PCK over sampling steps: {title}")
    console = Console(highlight=False)
    console.print(main_table(rows, title))
    console.print(split_table(rows, "by_difference", "PCK@0.1 by the difference of the views"))
    console.print(split_table(rows, "by_category", "PCK@0.1 by category"))
    console.print(KEY, style="dim")
    for entry in left_out:
        console.print(f"left out: {entry['extractor']} with {entry['matcher']}: {entry['why']}")
    for name in FILES:
        console.print(f"  {folder / name}", soft_wrap=True)


def _total(config: Config) -> int:
    return int(config.sampler.num_inference_steps)
