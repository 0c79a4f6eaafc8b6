"""How much of an object's appearance comes over, against pictures whose truth is known.

A counterfeit is the object in another place with other colours and patterns on every part. It is
inverted and drawn again while the reference is injected; the result is compared, pixel by pixel,
with the same scene showing the right object. Without --arm the error budget is measured: the
configuration as it is, then with true masks, true matches, both, and the truth as its own
reference. What is finished is kept; the same command goes on.

examples:
  dreammatcher transfer-bench
  dreammatcher transfer-bench --arm "values" --arm "outputs injector=output_blend"
  dreammatcher transfer-bench injector=output_blend --groups 28 --targets 2
  dreammatcher transfer-bench --arm "outputs injector=output_blend truth=masks,matches"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from framework.cli.arguments import add_config, config_of
from framework.errors import check_range

OUTPUT = "runs/transfer-bench"
#: Drawn without classifier-free guidance, as the inversion is, unless a setting says otherwise.
SETTINGS = ("sampler.guidance_scale=1",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="'NAME key=value ...'",
        help="a configuration to compare; truth=masks,matches,reference gives it the truth there",
    )
    parser.add_argument("--groups", type=int, default=14, metavar="N", help="objects (default 14)")
    parser.add_argument(
        "--targets", type=int, default=2, metavar="K", help="counterfeits of each (default 2)"
    )
    parser.add_argument(
        "--concepts", action="store_true", help="the held-out concepts instead of other objects"
    )
    parser.add_argument("--seed", type=int, default=0, help="of objects and views (default 0)")
    parser.add_argument("--output", metavar="DIR", help=f"where results go (default {OUTPUT})")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, measure, write, print."""
    check_range("--groups", args.groups, 1, 10_000)
    check_range("--targets", args.targets, 1, 64)
    check_range("--seed", args.seed, 0, 2**31 - 1)
    args.overrides = [*SETTINGS, f"sampler.batch_size={args.targets}", *(args.overrides or [])]
    config = config_of(args)

    from rich.console import Console

    from framework.backbones.loading import load_pipeline
    from framework.transferbench.arms import budget_arms, distinct, read_arm
    from framework.transferbench.bench import TransferBench
    from framework.transferbench.groups import WorldTransfers
    from framework.transferbench.tables import (
        KEY,
        arms_table,
        budget_table,
        error_budget,
        summarise_transfer,
        write_transfer,
    )

    arms = distinct([read_arm(text) for text in args.arm] or budget_arms())
    pipe = load_pipeline(config.model)
    source = WorldTransfers(args.groups, args.targets, args.seed, concepts=args.concepts)
    folder = Path(args.output or config.output or OUTPUT).expanduser()
    bench = TransferBench(pipe, config, source, arms, folder)
    records = bench.run()
    summary, budget = summarise_transfer(records), error_budget(records)
    write_transfer(folder, bench.about(), summary, budget)
    console = Console(highlight=False)
    title = f"{args.groups} objects, {args.targets} counterfeits each"
    console.print(arms_table(summary, title))
    if budget:
        console.print(budget_table(budget))
    console.print(KEY, style="dim")
    for name in ("results.json", "table.md", "pictures"):
        console.print(f"  {folder / name}", soft_wrap=True)
    return 0
