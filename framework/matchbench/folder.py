"""Pairs from any folder of pictures: each with synthetic warps of itself."""

from __future__ import annotations

from pathlib import Path

import torch

from framework.concepts.images import load_image, load_images
from framework.concepts.preprocess import prepare_image
from framework.errors import UserError
from framework.matchbench.pairs import Group, Target
from framework.matchbench.warps import WARPS, cell_centres, inside, map_pixels, warp_picture


class WarpedPictures:
    """Every picture is a reference; its targets are warps of it, the kinds taking turns.

    The whole picture counts as the object: every cell has a point, points whose origin lies
    outside the frame count as hidden, and the box is the picture.

    Args:
        folder: of pictures, or of folders of pictures, whose names then are the categories.
        groups: how many references; None: every picture. They are spread over the folders.
        targets: warps of each picture.
        seed: other seeds give other warps.
        size: (height, width) of the pictures in pixels.
        grid: cells of the matched grid, (H, W).
        prompt: what the pictures show, for the network.
        class_name: the object's noun in the prompt, for masks; empty: no masks.

    Raises:
        UserError: the folder is missing, or has no pictures.
    """

    def __init__(
        self,
        folder: str | Path,
        groups: int | None = None,
        targets: int = 2,
        seed: int = 0,
        size: tuple[int, int] = (128, 128),
        grid: tuple[int, int] = (32, 32),
        prompt: str = "",
        class_name: str = "",
    ) -> None:
        self.files = find_pictures(folder)[:groups]
        self.targets, self.seed, self.size, self.grid = targets, seed, size, grid
        self.prompt, self.class_name = prompt, class_name

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Group:
        file = self.files[index % len(self.files)]
        image = prepare_image(load_image(file), *self.size)
        kinds = [list(WARPS)[(index + k) % len(WARPS)] for k in range(self.targets)]
        targets = []
        for number, kind in enumerate(kinds):
            generator = torch.Generator().manual_seed(hash_of(self.seed, index, number))
            make, strength = WARPS[kind]
            where = make(generator, strength)
            points = cell_centres(self.size, self.grid)
            truth = map_pixels(points, where, self.size)
            targets.append(
                Target(
                    image=warp_picture(image, where),
                    prompt=self.prompt,
                    points=points,
                    truth=truth,
                    visible=inside(truth, self.size),
                    box=float(max(self.size)),
                    category=file.parent.name,
                    difference=kind,
                )
            )
        return Group(
            f"{index:03d}-{file.stem}", image, self.prompt, self.class_name, tuple(targets)
        )


def find_pictures(folder: str | Path) -> list[Path]:
    """Pictures of a folder or of its folders, the folders taking turns; each is read once.

    Raises:
        UserError: the folder is missing, has no pictures, or one of them is damaged.
    """
    root = Path(folder).expanduser()
    inner = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    nested = [p for p in inner if not p.name.startswith(".") and any(map(_is_picture, p.iterdir()))]
    if not nested or any(map(_is_picture, root.iterdir())):
        return [file for file, _ in load_images(root)]
    columns = [sorted(filter(_is_picture, place.iterdir())) for place in nested]
    turns = max(map(len, columns))
    found = [column[turn] for turn in range(turns) for column in columns if turn < len(column)]
    if not found:
        raise UserError(f"The folder '{root}' has no picture in it.")
    return found


def _is_picture(path: Path) -> bool:
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
    return path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".")


def hash_of(*numbers: int) -> int:
    """One seed for torch from several numbers."""
    value = 0
    for number in numbers:
        value = (value * 1_000_003 + number + 1) % (2**31 - 1)
    return value
