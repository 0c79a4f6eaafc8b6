"""What the method saw while one image was drawn: a page of pictures for each chosen step.

A page shows the predicted clean image of both branches with match lines, the reference warped by
the flow, the flow with its key, the confidence, both masks, and the descriptors in false colours.

examples:
  dreammatcher inspect concept.name=taxi_car concept.weights=FILE --prompt "a {} on the grass"
  dreammatcher inspect concept.name=taxi_car concept.placeholder='""' --steps 5,12,24 --seed 3
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config, config_of
from framework.errors import UserError, check_range

if TYPE_CHECKING:
    from framework.sampling.sampler import Sampler
    from framework.types import StepTrace
    from framework.viz.inspect import StepLook

logger = logging.getLogger(__name__)

STEPS = "4"
OUTPUT = "runs/inspect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--prompt", metavar="TEXT", help="default: the first configured")
    parser.add_argument("--seed", type=int, metavar="N", help="the seed (default: the first)")
    parser.add_argument(
        "--steps",
        default=STEPS,
        metavar="N|all|5,12,24",
        help=f"matched steps: how many, evenly spread, or which, from 0 with a comma "
        f"(default {STEPS})",
    )
    parser.add_argument("--output", metavar="DIR", help=f"default {OUTPUT}/CONCEPT")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the image and its pages."""
    config = config_of(args)
    seed = config.seeds[0] if args.seed is None else args.seed
    check_range("--seed", seed, 0, 2**63 - 1)
    prompt = config.prompts[0] if args.prompt is None else args.prompt
    if not prompt.strip():
        raise UserError("The prompt is empty; give e.g. --prompt 'a photo of a {}'.")

    from framework.composer import compose
    from framework.runs.atomic import atomic_path
    from framework.viz.inspect import draw_look

    sampler = compose(config)
    chosen = choose(args.steps, sampler.matched_steps())
    result = sampler(prompt, seed=seed, return_trace=True, trace_steps=chosen)
    folder = Path(args.output or config.output or Path(OUTPUT) / sampler.concept.name).expanduser()
    with atomic_path(folder / "image.png") as temporary:
        result.images[0].save(temporary)
    for look in looks(sampler, result.trace, prompt):
        path = folder / f"step-{look.step:03d}.png"
        with atomic_path(path) as temporary:
            draw_look(look).savefig(temporary)
        print(path)
    print(folder / "image.png")
    return 0


def choose(text: str, matched: list[int]) -> list[int]:
    """Which steps to show.

    Args:
        text: a number of them, ``all``, or a comma-separated list.
        matched: the steps in which matches are used.

    Raises:
        UserError: nothing is matched, or a step is not.
    """
    if not matched:
        raise UserError(
            "No step is matched with these settings: the injector uses no matches, or starts after "
            "the last step. Choose e.g. injector.name=appearance_matching."
        )
    if text == "all":
        return matched
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise UserError(f"--steps is '{text}'; expected a number, all, or a list such as 5,12,24.")
    if "," not in text:
        check_range("--steps", numbers[0], 1)
        count = min(numbers[0], len(matched))
        places = [round(i * (len(matched) - 1) / max(count - 1, 1)) for i in range(count)]
        return [matched[place] for place in places] if count > 1 else matched[-1:]
    for number in numbers:
        if number not in matched:
            raise UserError(
                f"--steps has {number}, which is not matched; matched are {matched[0]} to "
                f"{matched[-1]}."
            )
    return sorted(set(numbers))


def looks(sampler: Sampler, trace: list[StepTrace], prompt: str) -> list[StepLook]:
    """The conditional half of each recorded step, its predictions decoded."""
    from framework.concepts.text import fill_prompt
    from framework.types import Features
    from framework.viz.inspect import StepLook
    from framework.viz.matches import Match

    found = []
    for step in trace:
        if step.flow is None or step.confidence is None or step.masks is None:
            continue
        assert step.reference_clean is not None
        match = Match(
            caption=fill_prompt(prompt, sampler.concept),
            reference=_picture(sampler, step.reference_clean),
            result=_picture(sampler, step.target_clean),
            flow=step.flow[-1].float(),
            confidence=step.confidence[-1].float(),
            mask=step.masks.target[-1].float(),
        )
        features = step.features
        if features is not None:
            features = Features(features.target[-1:], features.reference[-1:])
        mask = step.masks.reference[-1].float()
        found.append(StepLook(step.step, sampler.evaluations(), match, mask, features))
    return found


def _picture(sampler: Sampler, latent: Any) -> Any:
    device = sampler.model.device
    return sampler.model.to_output(latent.to(device=device, dtype=sampler.model.dtype), "pil")[0]
