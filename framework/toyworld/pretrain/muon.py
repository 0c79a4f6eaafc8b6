"""Muon for matrices and kernels, AdamW for the rest, in one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError
from framework.toyworld.pretrain.devices import cpu_bfloat16_is_fast


def orthogonalised(matrices: Tensor, steps: int = 4) -> Tensor:
    """Roughly the nearest matrices with equal singular values, by Newton-Schulz iteration.

    Args:
        matrices: (B, M, N) with M <= N.
        steps: Iterations.

    Returns:
        (B, M, N), singular values about 0.7 ... 1.2.
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.device.type != "cpu" or cpu_bfloat16_is_fast():
        x = x.bfloat16()
    for _ in range(steps):
        product = x @ x.mT
        inner = torch.baddbmm(product, product, product, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, inner, x, beta=3.4445)
    return x.float()


class Muon(torch.optim.Optimizer):
    """Groups with ``muon`` true take orthogonalised momentum (Jordan et al. 2024), others AdamW.

    A small convolutional network learns from about half as many pictures with it. In bfloat16
    only where that is fast, unlike ``torch.optim.Muon``, which is slow on CPUs without it.

    Args:
        groups: Parameter groups; each may set any of the options below.
        lr: Learning rate.
        weight_decay: Decoupled.
        momentum: Of the groups with ``muon``.
        betas: Of the other groups.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas}
        super().__init__(groups, options | {"muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the closure does."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                p.mul_(1.0 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adam)(params, group)
        return value

    def _adam(self, params: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for p in params:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1.0 - first)
            state["square"].lerp_(p.grad.square(), 1.0 - second)
            scale = (1.0 - second ** state["step"]) ** 0.5 / (1.0 - first ** state["step"])
            p.addcdiv_(state["mean"], state["square"].sqrt() + 1e-8, value=-group["lr"] * scale)

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p in params:
            state = self.state[p]
            if not state:
                state["mean"] = torch.zeros_like(p)
            state["mean"].lerp_(p.grad, 1.0 - group["momentum"])
            update = p.grad.lerp(state["mean"], group["momentum"]).flatten(1)
            wide = update if update.shape[0] <= update.shape[1] else update.T
            shapes.setdefault(tuple(wide.shape), []).append((p, wide))
        for items in shapes.values():
            updates = orthogonalised(torch.stack([wide for _, wide in items]))
            for (p, _), update in zip(items, updates, strict=True):
                rows, columns = len(p), p.numel() // len(p)
                update = (update if rows <= columns else update.T).reshape(p.shape)
                p.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def build_optimizer(
    name: str, inner: list[Tensor], outer: list[Tensor], lr: float, adam: float, decay: float
) -> torch.optim.Optimizer:
    """AdamW, or Muon for a network's inner matrices beside it; vectors have no weight decay.

    Args:
        name: ``adamw`` or ``muon``.
        inner: Parameters between the first and the last layer.
        outer: Parameters of first and last layers, and of heads.
        lr: Learning rate.
        adam: Under Muon, learning rate of what AdamW trains, as a fraction of ``lr``.
        decay: Weight decay.

    Raises:
        UserError: There is no such optimizer.
    """
    if name not in ("adamw", "muon"):
        raise UserError(f"optimizer is '{name}'; expected 'adamw' or 'muon'.")
    kernels = [p for p in inner if p.ndim > 1]
    vectors = [p for p in [*inner, *outer] if p.ndim <= 1]
    matrices = [p for p in outer if p.ndim > 1]
    if name == "adamw":
        groups = [
            {"params": kernels + matrices, "weight_decay": decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))
    groups = [
        {"params": kernels, "weight_decay": decay, "muon": True},
        {"params": matrices, "weight_decay": decay, "relative": adam},
        {"params": vectors, "weight_decay": 0.0, "relative": adam},
    ]
    return Muon([group for group in groups if group["params"]], lr)
