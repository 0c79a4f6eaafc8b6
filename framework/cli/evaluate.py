"""Score pictures: those of an ablation, or any folder of images.

A folder that 'dreammatcher ablate' wrote is scored, tabulated and reported as a whole. Any other
folder needs the concept's pictures (--references); its subfolders are compared with each other,
pictures of the same name being pairs. If the references are a folder of folders, one a concept,
pictures lie in subfolders called like their concepts: FOLDER/METHOD/CONCEPT/*.png.
Prompts come from --prompts (a CSV with the columns file and prompt, or a text file with one prompt
a line for pictures named PROMPT-SEED.png, counted from 0), from prompts.json as 'dreammatcher
sample' writes it, or are unknown: then there is no T_CLIP.

examples:
  dreammatcher evaluate runs/ablate/components --protocol official
  dreammatcher evaluate IMAGES --references PHOTOS --class-name dog --prompts prompts.csv
  dreammatcher evaluate IMAGES --references LIBRARY --prompts prompts.txt --baseline plain
  dreammatcher evaluate runs/ablate/components evaluation.identity=vit_small_patch16_224.dino
"""

from __future__ import annotations

import argparse
from pathlib import Path

from framework.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="run folder, or folder of images"
    )
    parser.add_argument(
        "--protocol",
        action="append",
        metavar="NAME",
        help="corrected or official; may be repeated (default: the run's own, else corrected)",
    )
    parser.add_argument(
        "--references", metavar="DIR", help="pictures of the concept, or of each, in folders"
    )
    parser.add_argument("--class-name", metavar="NOUN", help="its plain noun, for T_CLIP")
    parser.add_argument("--placeholder", metavar="WORD", help="its word in the prompts, if any")
    parser.add_argument("--prompts", metavar="FILE", help="CSV (file,prompt), or one prompt a line")
    parser.add_argument("--baseline", metavar="DIR", help="subfolder the others are compared with")
    parser.add_argument("--output", metavar="DIR", help="for results (default: FOLDER/evaluation)")
    parser.add_argument("--list-protocols", action="store_true", help="print them and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. evaluation.clip=FOLDER"
    )


def run(args: argparse.Namespace) -> int:
    """Score, write, print."""
    from framework.metrics.protocols import protocol, protocol_table

    if args.list_protocols:
        print(protocol_table())
        return 0
    for name in args.protocol or []:
        protocol(name)
    if args.folder is None:
        raise UserError("evaluate needs a FOLDER: of a run, or of images.")
    folder = Path(args.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"'{folder}' is no folder; give a run folder or a folder of images.")
    from framework.cli.device import scoring_device
    from framework.experiments.folder import PLAN

    changes = evaluation_changes(args.overrides)
    if (folder / PLAN).is_file():
        from framework.experiments.evaluate import evaluate_run, print_results

        if args.references:
            raise UserError(
                f"'{folder}' is an ablation and knows its references; leave out --references."
            )
        found = evaluate_run(
            None,
            folder,
            protocols=args.protocol or (),
            changes=changes,
            device=scoring_device(),
        )
        print_results(found, folder)
        return 0
    from framework.experiments.evaluate import print_results
    from framework.experiments.images import Depicted, evaluate_images

    if not args.references:
        raise UserError(
            f"'{folder}' holds no ablation (no {PLAN}), so the concept is unknown: give its "
            "pictures, --references DIR."
        )
    output = Path(args.output).expanduser() if args.output else folder / "evaluation"
    found = evaluate_images(
        folder,
        output,
        Depicted(args.references, args.class_name, args.placeholder or "", args.prompts),
        baseline=args.baseline,
        protocols=args.protocol or ("corrected",),
        changes=changes,
        device=scoring_device(),
    )
    print_results(found, output)
    return 0


def evaluation_changes(overrides: list[str]) -> dict[str, object]:
    """``evaluation.key=value`` words, checked.

    Raises:
        UserError: a word is about anything but the evaluation, or is wrong.
    """
    from framework.config.page import load_config
    from framework.options import options_of

    keys = []
    for text in overrides:
        key = text.partition("=")[0].strip()
        if not key.startswith("evaluation."):
            raise UserError(
                f"'{text}' does not change the scoring; expected evaluation.KEY=VALUE, e.g. "
                "evaluation.clip=FOLDER."
            )
        keys.append(key.removeprefix("evaluation."))
    section = options_of(load_config(None, overrides).evaluation)
    return {key: section[key] for key in keys}
