"""Draw every prompt with every seed, one PNG each, into a run folder.

A prompt has {} where the concept belongs. Images that are already there from the same
configuration are not drawn again, so an interrupted run goes on where it stopped.

examples:
  dreammatcher sample concept.name=clown_cat concept.weights=FILE --prompt "a photo of a {}"
  dreammatcher sample --config models/sd1 model.path=FOLDER concept.path=PHOTOS \\
      concept.class_name=dog concept.weights=FILE --seed 0 --seed 1
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cli.arguments import add_config, config_of
from framework.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from framework.config.page import Config
    from framework.sampling.sampler import Sampler
    from framework.types import Concept, SamplerOutput

logger = logging.getLogger(__name__)

BASELINE = "baseline"
TRACE = "trace"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated"
    )
    parser.add_argument(
        "--seed", action="append", type=int, metavar="N", help="a seed; may be repeated"
    )
    parser.add_argument("--output", metavar="DIR", help="run folder (default runs/sample/CONCEPT)")
    parser.add_argument(
        "--baseline",
        action="store_true",
        help=f"also draw the same noise without matching or guidance, into {BASELINE}/",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help=f"also write what each step saw (flow, confidence, masks), into {TRACE}/",
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Draw."""
    config = config_of(args)
    config = replace(
        config,
        prompts=args.prompt or config.prompts,
        seeds=args.seed or config.seeds,
        output=args.output or config.output,
    )
    if len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"seeds has a value twice: {config.seeds}; give each once.")

    from framework.composer import compose

    sampler = compose(config)
    arms = {".": sampler}
    if args.baseline:
        arms[BASELINE] = plain_sampler(sampler, config)
    _check_prompts(sampler, config)
    own = any(each.path is not None for each in (config.concept, *config.concepts))
    if own and config.model.path in config.model.notes:
        logger.warning("Note: %s", config.model.notes[config.model.path])

    from framework.config.folder import open_run
    from framework.runs.atomic import write_atomic

    default = Path("runs/sample") / "-".join(each.name for each in _concepts_of(sampler))
    folder = open_run(config, default)
    write_atomic(folder / "prompts.json", json.dumps(_index(config, sampler), indent=2) + "\n")
    for name, arm in arms.items():
        traced = folder / TRACE if args.trace and name != BASELINE else None
        _draw(arm, config, folder / name, traced, name)
    count = len(config.prompts) * len(config.seeds)
    print(f"{count} image(s) in {folder}")
    if args.baseline:
        print(f"the same without matching in {folder / BASELINE}")
    if args.trace:
        print(f"what each step saw in {folder / TRACE}")
    return 0


def plain_sampler(sampler: Sampler, config: Config) -> Sampler:
    """The same model and concept without matching and guidance."""
    from framework.composer import make_sampler, without_matching

    return make_sampler(sampler.pipe, sampler.concepts, without_matching(config))


def _concepts_of(sampler: Sampler) -> tuple[Concept, ...]:
    """The concepts a sampler draws."""
    return getattr(sampler, "concepts", (sampler.concept,))


def file_name(prompt_index: int, seed: int) -> str:
    """Name of one image."""
    return f"{prompt_index:03d}-{seed}.png"


def _check_prompts(sampler: Sampler, config: Config) -> None:
    """Refuse every prompt that cannot be drawn before the first is."""
    from framework.concepts.text import check_words

    settings = config.concepts or [config.concept]
    for concept, given in zip(_concepts_of(sampler), settings, strict=True):
        _check_placeholder(concept.placeholder, sampler.model.tokenizer, given.weights)
    for text in [*config.prompts, sampler.config.reference_prompt]:
        filled = sampler.fill(text)
        check_words(sampler.model.tokenizer, filled)
        sampler.positions(filled)


def _check_placeholder(word: str, tokenizer: Any, weights: str | None) -> None:
    """Say it plainly if nothing has taught the model this concept."""
    from framework.concepts.text import unknown_words

    if weights is not None or not word or word in tokenizer.get_vocab():
        return
    advice = (
        "Give what 'dreammatcher train' wrote, concept.weights=FILE; or, to draw the plain class "
        "without learning, concept.placeholder='\"\"'."
    )
    if unknown_words(tokenizer, word):
        raise UserError(f"The model has not learned the word '{word}'. {advice}")
    if word.startswith("<"):
        logger.warning("The model seems not to have learned the word '%s'. %s", word, advice)


def _index(config: Config, sampler: Sampler) -> list[dict[str, Any]]:
    return [
        {
            "prompt": text,
            "filled": sampler.fill(text),
            "images": {str(seed): file_name(index, seed) for seed in config.seeds},
        }
        for index, text in enumerate(config.prompts)
    ]


def _draw(sampler: Sampler, config: Config, folder: Path, traces: Path | None, label: str) -> None:
    """Draw what is missing, a batch at a time, and write each image when it is there."""
    from framework.runs.atomic import write_atomic
    from framework.runs.progress import progress

    jobs = [
        (index, seed)
        for index in range(len(config.prompts))
        for seed in config.seeds
        if not _done(folder, traces, index, seed)
    ]
    kept = len(config.prompts) * len(config.seeds) - len(jobs)
    if kept:
        logger.info("%d images of this configuration are there already and are kept.", kept)
    size = 1 if traces else sampler.config.batch_size  # a trace is large, an image is not
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    title = "images" if label == "." else f"images ({label})"
    for batch in progress(batches, title):
        result = sampler(
            [config.prompts[index] for index, _ in batch],
            seed=[seed for _, seed in batch],
            return_trace=("clean", "matches", "masks") if traces else False,
        )
        for row, (index, seed) in enumerate(batch):
            if traces is not None:
                write_trace(result, row, traces / _trace_name(index, seed))
            picture: Image.Image = result.images[row]
            write_atomic(folder / file_name(index, seed), picture.save)


def _trace_name(index: int, seed: int) -> str:
    return file_name(index, seed).removesuffix(".png") + ".safetensors"


def _done(folder: Path, traces: Path | None, index: int, seed: int) -> bool:
    image = (folder / file_name(index, seed)).is_file()
    return image and (traces is None or (traces / _trace_name(index, seed)).is_file())


def write_trace(result: SamplerOutput, row: int, path: Path) -> None:
    """What each step saw of one image, as safetensors.

    Keys are ``STEP/WHAT`` with ``target_clean`` (C, h, w) in every step and, where matching took
    place, ``flow`` (H, W, 2), ``confidence``, ``mask_target`` and ``mask_reference`` (H, W) of the
    conditional half.

    Args:
        result: a sampler's output with its trace.
        row: which image.
        path: file to write.
    """
    from safetensors.torch import save

    from framework.runs.atomic import write_atomic

    tensors = {}
    for step in result.trace:
        shown: dict[str, Any] = {"target_clean": step.target_clean[row]}
        last_half = row - len(step.latents)
        if step.flow is not None and step.confidence is not None:
            shown |= {"flow": step.flow[last_half], "confidence": step.confidence[last_half]}
        if step.masks is not None:
            shown["mask_target"] = step.masks.target[last_half]
            shown["mask_reference"] = step.masks.reference[last_half]
        for name, tensor in shown.items():
            tensors[f"{step.step:03d}/{name}"] = tensor.float().contiguous()
    write_atomic(path, save(tensors))
