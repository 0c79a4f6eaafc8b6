"""Shape checks whose messages tell a plug-in's author what to change."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from framework.errors import UserError


def check_shape(what: str, tensor: Tensor, expected: Sequence[int | None]) -> None:
    """Refuse a tensor of another shape; ``None`` in ``expected`` permits any size.

    Args:
        what: names the tensor in the message.
        tensor: of any shape.
        expected: e.g. (2, None, None) for two maps.

    Raises:
        UserError: with both shapes.
    """
    if not isinstance(tensor, Tensor):
        raise UserError(f"{what} is a {type(tensor).__name__}; expected a torch.Tensor.")
    got = tuple(tensor.shape)
    fits = len(got) == len(expected) and all(
        want is None or have == want for have, want in zip(got, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise UserError(f"{what} has shape {got}; expected ({wanted}).")


def check_type(what: str, value: object, expected: type) -> None:
    """Refuse what a part gave back if it is of another type; a forgotten ``return`` gives None.

    Raises:
        UserError: with both types.
    """
    if not isinstance(value, expected):
        raise UserError(
            f"{what} gave {type(value).__name__}; expected {expected.__name__}. Is a return "
            "missing?"
        )


def grid_of(positions: int, height: int, width: int) -> tuple[int, int]:
    """Grid (H, W) of an attention layer with ``positions`` cells under an (h, w) latent.

    Stable Diffusion's down blocks halve with rounding up, so the grids are the latent's own size
    halved 0, 1, 2, ... times.

    Raises:
        UserError: no halving of the latent has that many cells.
    """
    rows, columns = height, width
    while rows * columns > positions and (rows, columns) != (1, 1):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    if rows * columns != positions:
        raise UserError(
            f"An attention layer has {positions} positions, which is no halving of the "
            f"{height} x {width} latent; choose layers that attend over the image grid."
        )
    return rows, columns
