"""Pairs of SPair-71k, read from where a user has it: keypoints of two objects of one category.

Layout: ``PairAnnotation/SPLIT/*.json`` and ``JPEGImages/CATEGORY/*.jpg``, as published (Min et
al., 2019); ``ImageAnnotation`` is not needed, as a pair's annotation holds its keypoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framework.concepts.images import load_image
from framework.concepts.preprocess import prepare_image
from framework.errors import UserError, unknown_name
from framework.matchbench.pairs import Group, Target

PAIRS, PICTURES = "PairAnnotation", "JPEGImages"
_NEEDED = ("src_imname", "trg_imname", "src_kps", "trg_kps", "trg_bndbox", "category")


class SPairPairs:
    """Pairs of a split: points of the source image are looked for in the target image.

    In this benchmark's words SPair's source is the *target*, whose points are given, and SPair's
    target the *reference*, in which they are found. Pictures are stretched to the model's size;
    errors are measured in the original pixels against the box there.

    Args:
        folder: SPair-71k's root.
        groups: how many pairs, spread over the categories; None: all.
        split: ``trn``, ``val`` or ``test``.
        seed: other seeds choose other pairs.
        size: (height, width) of the pictures in pixels.

    Raises:
        UserError: the folder is not laid out as SPair-71k is, or a file in it is damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        groups: int | None = None,
        split: str = "test",
        seed: int = 0,
        size: tuple[int, int] = (128, 128),
    ) -> None:
        self.root, self.size = Path(folder).expanduser(), size
        self.files = _choose(_annotations(self.root, split), groups, seed)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Group:
        file = self.files[index]
        pair = read_pair(file)
        category = pair["category"]
        source, source_size = self._picture(category, pair["src_imname"], file)
        target, target_size = self._picture(category, pair["trg_imname"], file)
        left, top, right, bottom = (float(side) for side in pair["trg_bndbox"])
        truth = torch.tensor(pair["trg_kps"], dtype=torch.float32)
        noun = category.replace("_", " ")
        prompt = f"a photo of a {noun}"
        view = pair.get("viewpoint_variation", "?")
        keypoints = Target(
            image=source,
            prompt=prompt,
            points=self._sized(torch.tensor(pair["src_kps"], dtype=torch.float32), source_size),
            truth=self._sized(truth, target_size),
            visible=torch.ones(len(truth), dtype=torch.bool),
            box=max(right - left, bottom - top),
            category=category,
            difference=f"viewpoint {view}",
            scale=(target_size[0] / self.size[1], target_size[1] / self.size[0]),
        )
        return Group(f"{index:04d}-{file.stem.split(':')[0]}", target, prompt, noun, (keypoints,))

    def _picture(self, category: str, name: str, file: Path) -> tuple[torch.Tensor, Any]:
        path = self.root / PICTURES / category / name
        if not path.is_file():
            raise UserError(
                f"{file.name} names the picture '{path}', which is not there; is the data set "
                "whole?"
            )
        image = load_image(path)
        return prepare_image(image, *self.size, "stretch"), image.size

    def _sized(self, points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Pixels of a picture (width, height) -> pixels at the model's size."""
        factor = torch.tensor([self.size[1] / size[0], self.size[0] / size[1]])
        limit = torch.tensor([self.size[1] - 1.0, self.size[0] - 1.0])
        return torch.minimum(((points + 0.5) * factor - 0.5).clamp_min(0), limit)


def read_pair(file: Path) -> Mapping[str, Any]:
    """One pair's annotation, checked.

    Raises:
        UserError: it is no JSON, lacks a key, or its keypoints do not fit together.
    """
    try:
        pair = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in _NEEDED if key not in pair]
        if missing:
            raise UserError(f"{file} is no pair of SPair-71k: it lacks {', '.join(missing)}.")
        shapes = [np.asarray(pair[key], float).shape for key in ("src_kps", "trg_kps")]
        boxed = np.asarray(pair["trg_bndbox"], float).shape == (4,)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is no pair of SPair-71k: {error}.") from error
    if not boxed or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1:] != (2,):
        raise UserError(
            f"{file} is no pair of SPair-71k: it has keypoints {shapes[0]} and {shapes[1]}; "
            "expected the same number of (x, y) in both, and a box of four numbers."
        )
    return pair


def _annotations(root: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"--spair: the folder '{root}' does not exist; give SPair-71k's root.")
    for name in (PAIRS, PICTURES):
        if not (root / name).is_dir():
            raise UserError(
                f"--spair: '{root}' has no folder {name}; expected SPair-71k's root, with "
                f"{PAIRS}/SPLIT/*.json and {PICTURES}/CATEGORY/*.jpg."
            )
    splits = sorted(
        entry.name for entry in (root / PAIRS).iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if split not in splits:
        raise unknown_name("split of SPair-71k", split, splits)
    files = sorted(f for f in (root / PAIRS / split).glob("*.json") if f.name[0] != ".")
    if not files:
        raise UserError(f"--spair: '{root / PAIRS / split}' has no pair (*.json) in it.")
    return files


def _choose(files: list[Path], groups: int | None, seed: int) -> list[Path]:
    """Some pairs, the categories (after the colon of a file's name) taking turns."""
    if groups is None or groups >= len(files):
        return files
    order = np.random.default_rng(seed).permutation(len(files))
    columns: dict[str, list[Path]] = {}
    for place in order:
        columns.setdefault(files[place].stem.partition(":")[2], []).append(files[place])
    queues = [columns[name] for name in sorted(columns)]
    turns = range(max(map(len, queues)))
    taken = [queue[turn] for turn in turns for queue in queues if turn < len(queue)]
    return taken[:groups]
