"""Entropic optimal transport between two descriptor sets, with a dustbin, in log space.

Target cells and reference cells have mass 1 each; what fits nowhere goes to a dustbin on the other
side, which has room for all of it (Sarlin et al., SuperGlue, CVPR 2020, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from matchers.functional import BUDGET, similarities

Blocks = Callable[[], Iterator[Tensor]]


def logits_in_blocks(query: Tensor, keys: Tensor, epsilon: float) -> Blocks:
    """Similarities over epsilon, (N, M) in blocks of rows, as often as they are asked for.

    Small problems are kept; large ones are computed anew each time, so that memory stays bounded.

    Args:
        query: (N, D).
        keys: (M, D).
        epsilon: strength of the entropy.
    """
    if len(query) * len(keys) <= BUDGET:
        whole = query @ keys.T / epsilon
        return lambda: iter([whole])
    return lambda: (part / epsilon for part in similarities(query, keys))


def sinkhorn(
    blocks: Blocks, rows: int, columns: int, dustbin: float, iterations: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials of the transport plan.

    The plan is P[i, j] = exp(logits[i, j] + u[i] + v[j]); target cell i sends exp(dustbin + u[i] +
    bin) into the dustbin. After the last iteration every target cell has sent exactly its mass 1.

    Args:
        blocks: the logits, see :func:`logits_in_blocks`.
        rows: N.
        columns: M.
        dustbin: logit of going into the dustbin.
        iterations: of alternating normalisation, at least 1.
        like: a tensor of the data type and device to work in.

    Returns:
        u (N,), v (M,) and the dustbin column's potential (), in log space.
    """
    u, v = like.new_zeros(rows), like.new_zeros(columns)
    column_bin = row_bin = like.new_zeros(())
    log_rows, log_columns = math.log(max(rows, 1)), math.log(max(columns, 1))
    for step in range(iterations):
        if step:
            # Columns: every reference cell receives 1, the dustbin column at most N.
            received = like.new_full((columns,), -math.inf)
            start = 0
            for part in blocks():
                mine = u[start : start + len(part), None]
                received = torch.logaddexp(received, (part + mine).logsumexp(dim=0))
                start += len(part)
            received = torch.logaddexp(received, dustbin + row_bin)
            v = -received
            leftover = torch.logaddexp(dustbin + u.logsumexp(dim=0), dustbin + row_bin)
            column_bin = log_rows - leftover
        # Rows: every target cell sends 1, the dustbin row M.
        sent = torch.cat([(part + v).logsumexp(dim=1) for part in blocks()])
        u = -torch.logaddexp(sent, dustbin + column_bin)
        row_bin = log_columns - torch.logaddexp(dustbin + v.logsumexp(dim=0), dustbin + column_bin)
    return u, v, column_bin
