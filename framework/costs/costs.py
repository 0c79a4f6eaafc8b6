"""Costs of one call of each arm: counted from short runs, and timed in whole ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from framework.backbones.choose import backbone_of
from framework.composer import make_sampler
from framework.config.page import Config
from framework.costs.counting import Count, count
from framework.costs.models import Subject
from framework.errors import UserError
from framework.sampling.cache import MemoryCache, NoCache
from framework.sampling.sampler import Sampler

PLAIN = "plain pipeline"
#: Arm -> whether the reference pass is cached, whether it is guided.
ARMS = {
    "DreamMatcher": (False, False),
    "DreamMatcher, cached": (True, False),
    "with guidance": (False, True),
    "with guidance, cached": (True, True),
}
CACHED = tuple(arm for arm, (cached, _) in ARMS.items() if cached)
PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class Time:
    """Of one call: seconds on the clock, and of all this process's threads together."""

    wall: float
    cpu: float


def arm_config(config: Config, guided: bool, start: int | None = None) -> Config:
    """A configuration with guidance (in the steps that inject) or without.

    Args:
        config: the subject's.
        guided: whether guided.
        start: first injecting step; None as configured.
    """
    injector = dict(config.injector)
    first = injector["start_step"] if start is None else start
    injector["start_step"] = first
    guidance: dict[str, Any] = {"name": "none"}
    if guided:
        given = config.guidance if config.guidance["name"] == "semantic_matching" else {}
        guidance = {**given, "name": "semantic_matching", "start_step": first}
    return replace(config, injector=injector, guidance=guidance)


def make_call(
    subject: Subject, arm: str, targets: int, steps: int, start: int | None = None
) -> Callable[[], Any]:
    """A function that draws ``targets`` images, as one batch, in the way of an arm.

    A cached arm's cache is warm after the first call; the others prepare the reference each time.
    """
    config, pipe = subject.config, subject.pipe
    seeds = list(range(targets))
    if arm == PLAIN:
        return _plain_call(subject, targets, steps)
    cached, guided = ARMS[arm]
    chosen = arm_config(config, guided, start)
    options = replace(config.sampler, batch_size=targets, num_inference_steps=steps)

    def sampler() -> Sampler:
        cache = MemoryCache(2**36, 10**6) if cached else NoCache()
        return make_sampler(pipe, subject.concept, replace(chosen, sampler=options), cache)

    if not cached:
        return lambda: sampler()(PROMPT, seed=seeds)
    kept = sampler()
    return lambda: kept(PROMPT, seed=seeds)


def _plain_call(subject: Subject, targets: int, steps: int) -> Callable[[], Any]:
    """The diffusers pipeline itself, with the same scheduler."""
    config = subject.config.sampler
    pipe = type(subject.pipe)(**subject.pipe.components, **_extras(subject.pipe))
    model = backbone_of(subject.pipe)
    size = config.height or model.image_size, config.width or model.image_size
    chosen = config.scheduler, config.timestep_spacing, config.scheduler_options
    pipe.scheduler = model.schedule(steps, size, *chosen).scheduler
    pipe.set_progress_bar_config(disable=True)
    text = PROMPT.replace("{}", subject.concept.phrase)

    def call() -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in range(targets)]
        return pipe(
            [text] * targets,
            num_inference_steps=steps,
            guidance_scale=config.guidance_scale,
            generator=generators,
        )

    return call


def _extras(pipe: Any) -> dict[str, Any]:
    """Constructor arguments of a pipeline that are no components."""
    return {"requires_safety_checker": False} if hasattr(pipe, "safety_checker") else {}


def counted(subject: Subject, arm: str, targets: int, steps: int, hollow: bool = True) -> Count:
    """Exact cost of a call with many steps, from runs of two and three.

    Every step of one kind costs the same, so a run's operations and network rows are an affine
    function of its steps; memory does not depend on them.

    Args:
        subject: the model.
        arm: :data:`PLAIN` or one of :data:`ARMS`.
        targets: N.
        steps: T.
        hollow: skip the computations.
    """

    def short(each: str, number: int) -> Count:
        call = make_call(subject, each, targets, number, start=1)
        return count(call, backbone_of(subject.pipe).network, hollow, warm=each in CACHED)

    if arm == PLAIN:
        return _along(short(PLAIN, 2), short(PLAIN, 3), steps - 2)
    start = int(subject.config.injector["start_step"])
    shown = steps - start + 1  # from the first step that describes on
    if shown < 2:
        raise UserError(
            f"{steps} steps end before injector.start_step ({start}) has acted; measure more."
        )
    main = _along(short(arm, 2), short(arm, 3), shown - 2)
    two, three = short(PLAIN, 2), short(PLAIN, 3)
    row = (three.flops - two.flops) / (three.rows - two.rows)
    # Steps before that: the targets alone, and, if nothing is cached, an inversion step each.
    rows = (start - 1) * (three.rows - two.rows + (0 if ARMS[arm][0] else 1))
    return Count(main.flops + rows * row, main.rows + rows, main.peak)


def _along(first: Count, second: Count, beyond: float) -> Count:
    """The count ``beyond`` units after the first on the line through two, one unit apart."""
    return Count(
        first.flops + beyond * (second.flops - first.flops),
        first.rows + beyond * (second.rows - first.rows),
        max(first.peak, second.peak),
    )


def for_targets(one: Count, two: Count, targets: int) -> Count:
    """Cost for N targets from those of one and two: operations, rows and memory are affine in N."""
    along = _along(one, two, targets - 1)
    return Count(along.flops, along.rows, one.peak + (targets - 1) * (two.peak - one.peak))


def timed(
    subject: Subject, arms: list[str], targets: int, steps: int, repeats: int
) -> dict[str, Time]:
    """Least time of a call of each arm, taken in turns so that a busy machine hits all alike."""
    calls = {arm: make_call(subject, arm, targets, steps) for arm in arms}
    for arm in arms:
        if arm in CACHED:
            calls[arm]()
    found: dict[str, list[Time]] = {arm: [] for arm in arms}
    for _ in range(repeats):
        for arm, call in calls.items():
            _synchronise()
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            _synchronise()
            found[arm].append(Time(time.perf_counter() - wall, time.process_time() - cpu))
    return {
        arm: Time(min(t.wall for t in each), min(t.cpu for t in each))
        for arm, each in found.items()
    }


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
