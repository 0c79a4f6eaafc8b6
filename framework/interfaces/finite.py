"""Values that are not finite are refused, with the likely cause."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.errors import UserError


def require_finite(tensor: Tensor, network: nn.Module, what: str, dtype: torch.dtype) -> Tensor:
    """Refuse values that are not finite.

    Args:
        tensor: of any shape.
        network: where they come from.
        what: names them, in the plural.
        dtype: that the network computes in.

    Returns:
        The tensor.

    Raises:
        UserError: some are not; it names a weight that is not, the data type that overflowed, or
            what else to look at.
    """
    if bool(tensor.isfinite().all()):
        return tensor
    for name, weight in network.named_parameters():
        if weight.is_floating_point() and not bool(weight.float().isfinite().all()):
            raise UserError(
                f"{what} are not finite: weight '{name}' of the {type(network).__name__} is "
                "not. The checkpoint is damaged, or was trained until it diverged; use another."
            )
    if dtype in (torch.float16, torch.bfloat16):
        raise UserError(
            f"{what} are not finite: {str(dtype).removeprefix('torch.')} overflowed. Give "
            "the model a wider type, e.g. model.dtype=float32."
        )
    raise UserError(
        f"{what} are not finite, though every weight is: the {type(network).__name__} does not "
        "suit this scheduler, guidance scale or size. Try those of its model card."
    )
