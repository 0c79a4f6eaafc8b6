"""Two arms from the same noise: the personalized model alone, and with DreamMatcher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from framework.composer import build_parts
from framework.concepts.text import SLOT, check_words, fill
from framework.config.page import Config
from framework.errors import UserError
from framework.metrics.judge import Judge
from framework.runs.progress import no_progress
from framework.sampling.cache import make_cache
from framework.sampling.sampler import Sampler
from framework.types import Concept, StepTrace

BASELINE = "baseline"
TREATED = "dreammatcher"
ARMS = (BASELINE, TREATED)
LABELS = {BASELINE: "Baseline", TREATED: "DreamMatcher"}


@dataclass(frozen=True)
class Cell:
    """One picture to draw.

    Attributes:
        index: number of its prompt.
        prompt: the prompt, with ``{}`` or the placeholder.
        seed: of its noise.
    """

    index: int
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        """File name, ``<prompt-index>-<seed>.png``."""
        return f"{self.index}-{self.seed}.png"


def cells(prompts: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every prompt with every seed, prompt by prompt.

    Raises:
        UserError: a seed is given twice.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds has a value twice: {list(seeds)}; give each once.")
    return [Cell(index, text, seed) for index, text in enumerate(prompts) for seed in seeds]


@dataclass
class Arm:
    """What one arm drew.

    Attributes:
        name: one of :data:`ARMS`.
        images: one picture for each cell.
        seconds: wall time of sampling, the reference's inversion included.
        scores: for each similarity one number for each cell; empty without a judge.
        trace: what the steps saw, of the traced cells only, in their order.
    """

    name: str
    images: list[Image.Image]
    seconds: float
    scores: dict[str, list[float]] = field(default_factory=dict)
    trace: list[StepTrace] = field(default_factory=list)


@dataclass
class Comparison:
    """Both arms of one concept.

    Attributes:
        concept: the concept.
        cells: what was drawn, in the order of the arms' pictures.
        arms: by name.
        traced: which cells have a trace (indices).
    """

    concept: Concept
    cells: list[Cell]
    arms: dict[str, Arm]
    traced: list[int] = field(default_factory=list)


def baseline_config(config: Config) -> Config:
    """The same configuration without injection and guidance: the personalized model alone."""
    return replace(config, injector={"name": "none"}, guidance={"name": "none"})


def make_samplers(pipe: Any, concept: Concept, config: Config) -> dict[str, Sampler]:
    """A sampler for each arm, sharing the pipeline.

    Raises:
        UserError: the configured layers are not in the network, or a part cannot be built.
    """
    return {
        BASELINE: Sampler(pipe, concept, build_parts(baseline_config(config)), config.sampler),
        TREATED: Sampler(
            pipe, concept, build_parts(config), config.sampler, make_cache(config.cache)
        ),
    }


def check_prompts(pipe: Any, concept: Concept, config: Config) -> None:
    """Refuse prompts before anything is trained: no concept in them, or words nobody knows.

    The placeholder itself is excepted, as the model has yet to learn it.

    Raises:
        UserError: naming the prompt and what is wrong.
    """
    from framework.metrics.text import plain_prompt

    cells(config.prompts, config.seeds)
    for prompt in (*config.prompts, config.sampler.reference_prompt):
        check_words(pipe.tokenizer, plain_prompt(fill(prompt, concept), concept))


def rehearse(pipe: Any, concept: Concept, config: Config) -> None:
    """Run the parts together once, before anything is learned.

    One latent of the plain noun is drawn for as many steps as it takes until the injector acts, so
    that layers, grids or parts that do not fit show at once and not after the training.

    Args:
        pipe: the pipeline; it is left as it was.
        concept: the concept; its placeholder is not used.
        config: DreamMatcher's configuration.

    Raises:
        UserError: whatever of the configuration does not fit the model.
    """
    plain = replace(concept, placeholder="")
    steps = min(config.injector.get("start_step", 1) + 1, config.sampler.num_inference_steps)
    with no_progress():
        for sampler in make_samplers(pipe, plain, config).values():
            sampler(SLOT, seed=0, num_inference_steps=steps, output_type="latent")


def compare_arms(
    pipe: Any,
    concept: Concept,
    config: Config,
    *,
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    judge: Judge | None = None,
    traced: Sequence[int] = (),
) -> Comparison:
    """Draw the same prompts from the same noise with both arms, and score them.

    Args:
        pipe: a pipeline that carries the personalized concept; it is left as it was.
        concept: the concept.
        config: DreamMatcher's configuration; the baseline is the same with injector and guidance
            ``none``.
        prompts: prompts; default those of the configuration.
        seeds: every prompt is drawn with each; default those of the configuration.
        judge: scores the pictures; None leaves scores empty.
        traced: cells of DreamMatcher's arm whose trace is kept. They are drawn in a call of their
            own, as a trace is large; a picture does not depend on what it is drawn with.

    Raises:
        UserError: a prompt or a part cannot be used.
    """
    wanted = cells(
        config.prompts if prompts is None else prompts, config.seeds if seeds is None else seeds
    )
    arms = {}
    for name, sampler in make_samplers(pipe, concept, config).items():
        kept = list(traced) if name == TREATED else []
        start = time.perf_counter()
        images, trace = _draw(sampler, wanted, kept)
        arms[name] = Arm(name, images, time.perf_counter() - start, trace=trace)
    if judge is not None:
        for arm in arms.values():
            arm.scores = judge.score(arm.images, [cell.prompt for cell in wanted])
    return Comparison(concept, wanted, arms, list(traced))


def _draw(
    sampler: Sampler, wanted: Sequence[Cell], traced: Sequence[int]
) -> tuple[list[Image.Image], list[StepTrace]]:
    """Pictures of all cells in order, and the trace of some."""
    images: dict[int, Image.Image] = {}
    trace: list[StepTrace] = []
    rest = [index for index in range(len(wanted)) if index not in traced]
    for group, keep in ((list(traced), True), (rest, False)):
        if not group:
            continue
        result = sampler(
            [wanted[index].prompt for index in group],
            seed=[wanted[index].seed for index in group],
            return_trace=("matches", "masks") if keep else False,
        )
        images |= dict(zip(group, result.images, strict=True))
        trace = result.trace if keep else trace
    return [images[index] for index in range(len(wanted))], trace
