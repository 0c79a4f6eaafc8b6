"""Sample sheets: grids of pictures as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def save_grid(pictures: Tensor, path: Path, columns: int) -> None:
    """Writes pictures (N, 3, H, W) in -1..1 as one image with ``columns`` pictures a row."""
    array = ((pictures.float().clamp(-1, 1) + 1.0) * 127.5).round().byte()
    array = array.permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(list(array[i : i + columns]), 1) for i in range(0, len(array), columns)]
    width = rows[0].shape[1]
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, 0)).save(path)
