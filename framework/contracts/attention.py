"""What every injector keeps; see :class:`framework.interfaces.Injector`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from framework.contracts.base import NotAsked, expect, expect_close
from framework.injectors.functional import attention
from framework.interfaces import AttentionInputs, Injector
from framework.types import Correspondence, Masks

#: One layer's inputs, its matches, its masks.
Situation = tuple[AttentionInputs, Correspondence, Masks]
HEADS, DEPTH, WIDTH, TOKENS = 3, 8, 24, 7


def random_situation(
    pairs: int = 2, grid: tuple[int, int] = (4, 6), dtype: torch.dtype = torch.float32
) -> Situation:
    """Random tensors (B, heads, H * W, d), hidden states and maps of a layer; matches; masks."""
    generator = torch.Generator().manual_seed(0)
    cells = grid[0] * grid[1]

    def draw(*shape: int) -> Tensor:
        return torch.randn(pairs, *shape, generator=generator).to(dtype)

    def side() -> dict[str, Tensor]:
        return {
            "hidden_state": draw(cells, WIDTH),
            "cross_attention": draw(cells, TOKENS).softmax(dim=-1),
        }

    names = ("query", "key", "value")
    target: dict[str, Any] = {name: draw(HEADS, cells, DEPTH) for name in names}
    reference = {name: draw(HEADS, cells, DEPTH) for name in names} | side()
    reference["output"] = attention(reference["query"], reference["key"], reference["value"])
    inputs = AttentionInputs(
        **target,
        reference=reference,
        grid=grid,
        target=side(),
        tokens={"target": [[2]] * pairs, "reference": [[2]] * pairs},
        layer="up_blocks.1.attentions.0.transformer_blocks.0.attn1",
        step=5,
        signal=0.8,
        noise=0.6,
    )
    flow = torch.randint(-2, 3, (pairs, *grid, 2), generator=generator).float()
    confidence, *masks = torch.rand(3, pairs, *grid, generator=generator)
    return inputs, Correspondence(flow, confidence), Masks(*masks)


def attended(injector: Injector, situation: Situation) -> Tensor:
    """The injector's output, (B, heads, H * W, d)."""
    inputs, matches, masks = situation
    return injector(inputs, matches if injector.needs_correspondence else None, masks)


def only_pair(situation: Situation, row: int) -> Situation:
    """One of the B pairs alone."""
    inputs, matches, masks = situation
    one = slice(row, row + 1)
    inner: dict[str, Any] = {
        name: {key: value[one] for key, value in getattr(inputs, name).items()}
        for name in ("reference", "target", "tokens")
    }
    tensors: dict[str, Any] = {
        name: getattr(inputs, name)[one] for name in ("query", "key", "value")
    }
    return (
        replace(inputs, **tensors, **inner),
        Correspondence(matches.flow[one], matches.confidence[one]),
        Masks(masks.target[one], masks.reference[one]),
    )


def attends_in_the_query_s_shape(injector: Injector) -> None:
    """The output has the query's shape and data type and is finite, on any grid."""
    for grid in ((4, 6), (1, 5), (8, 8)):
        for dtype in (torch.float32, torch.bfloat16):
            output = attended(injector, random_situation(grid=grid, dtype=dtype))
            expect(output.dtype == dtype, f"given {dtype} on {grid} it gives {output.dtype}.")
            expect(output.isfinite().all(), f"the output on {grid} in {dtype} is not finite.")


def attends_again_alike(injector: Injector) -> None:
    """The same input gives the same bits, and stays as it was."""
    situation = random_situation()
    copy = random_situation()[0]
    first = attended(injector, situation)
    expect_close("two equal outputs", attended(injector, situation), first)
    for name in ("query", "key", "value"):
        what = f"the {name} before and after"
        expect_close(what, getattr(situation[0], name), getattr(copy, name))


def attends_for_each_pair_alone(injector: Injector) -> None:
    """A pair's output does not depend on the other pairs of its batch."""
    situation = random_situation(pairs=3)
    together = attended(injector, situation)
    for row in range(3):
        alone = attended(injector, only_pair(situation, row))
        what = f"the outputs of pair {row} alone and in a batch of three"
        expect_close(what, alone, together[row : row + 1], 1e-5)


def leaves_what_has_no_match(injector: Injector) -> None:
    """Without confidence, or outside the target's mask, it is the plain attention, bit for bit."""
    if not injector.needs_correspondence:
        raise NotAsked("it uses no matches")
    inputs, matches, masks = random_situation()
    plain = attention(inputs.query, inputs.key, inputs.value)
    nowhere = Correspondence(matches.flow, torch.zeros_like(matches.confidence))
    what = "its output and plain attention"
    expect_close(f"{what}, where no match is confident,", injector(inputs, nowhere, masks), plain)
    empty = Masks(torch.zeros_like(masks.target), masks.reference)
    expect_close(f"{what}, outside the mask,", injector(inputs, matches, empty), plain)


def minds_the_layer_s_scale(injector: Injector) -> None:
    """The layer's own factor on the attention logits is used; None is 1 / sqrt(d)."""
    inputs, matches, masks = random_situation()
    default = attended(injector, (inputs, matches, masks))
    same = attended(injector, (replace(inputs, scale=DEPTH**-0.5), matches, masks))
    expect_close("the outputs with the scale None and 1 / sqrt(d)", same, default, 1e-5)
    other = attended(injector, (replace(inputs, scale=0.01), matches, masks))
    expect(not torch.allclose(other, default, atol=1e-3), "inputs.scale has no effect.")


CHECKS = (
    attends_in_the_query_s_shape,
    attends_again_alike,
    attends_for_each_pair_alone,
    leaves_what_has_no_match,
    minds_the_layer_s_scale,
)
