"""Fixtures every test may use: tiny pipelines built once, quiet and on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny import tiny_sd, tiny_sdxl

from framework.runs.progress import no_progress


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with no_progress():
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sd1():
    """SD 1.x with a 16 x 16 latent (128 px). Tests must leave it as they found it."""
    return _quietened(tiny_sd(sample_size=16))


@pytest.fixture(scope="session")
def sd2():
    """SD 2.x: v-prediction, upcast attention, heads of one width."""
    return _quietened(tiny_sd(sample_size=16, version=2))


@pytest.fixture(scope="session")
def sdxl():
    """SDXL: two text encoders, micro-conditioning, 70 self-attention layers."""
    return _quietened(tiny_sdxl(sample_size=16))


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def any_pipe(request):
    """Each supported family in turn."""
    return request.getfixturevalue(request.param)


def _quietened(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe
