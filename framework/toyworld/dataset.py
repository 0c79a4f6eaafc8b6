"""Rendering and reading of training sets of the toy world.

``python -m framework.toyworld.dataset FOLDER --objects 4000 --views 4 --seed 0 --workers 2``
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from framework.toyworld.concepts import is_concept
from framework.toyworld.render import render
from framework.toyworld.scene import ObjectSpec, SceneSpec, sample_object, sample_scene

_OBJECTS_A_SHARD = 25
_SIZE = 128


def training_object(seed: int, index: int) -> ObjectSpec:
    """Object ``index`` of a set: depends on nothing but its arguments; never a concept."""
    rng = np.random.default_rng([seed, index])
    while True:
        spec = sample_object(rng)
        if not is_concept(spec):
            return spec


def training_scene(seed: int, index: int, view: int) -> SceneSpec:
    """View ``view`` of object ``index``: depends on nothing but its arguments."""
    return sample_scene(
        np.random.default_rng([seed, index, view + 1]), training_object(seed, index)
    )


def _render_shard(start: int, folder: str, objects: int, views: int, seed: int) -> int:
    """Renders the objects ``start ...`` of a shard, unless that was done; returns how many."""
    stop = min(start + _OBJECTS_A_SHARD, objects)
    path = Path(folder) / "shards" / f"{start:06d}.npz"
    if not path.exists():
        scenes = [training_scene(seed, i, k) for i in range(start, stop) for k in range(views)]
        renders = [render(scene, _SIZE) for scene in scenes]
        part = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        np.savez(
            part,
            images=np.stack([r.rgb for r in renders]),
            masks=np.stack([r.mask for r in renders]).astype(np.uint8),
            scenes=np.array([json.dumps(s.to_dict()) for s in scenes]),
        )
        part.replace(path)
    return stop - start


def render_dataset(
    folder: str | Path, objects: int = 4000, views: int = 4, seed: int = 0, workers: int = 2
) -> Path:
    """Renders a training set; may be stopped and started again.

    Writes ``images.npy`` uint8 (N, 128, 128, 3), ``masks.npy`` uint8 (N, 128, 128) of 0 and 1,
    ``scenes.jsonl`` (N lines, scene and ``object_id``) and ``settings.json``, N = objects x views;
    the views of an object are neighbours.

    Args:
        folder: Where to; made if need be.
        objects: Number of objects.
        views: Scenes of each object.
        seed: Set; sets of different seeds are independent.
        workers: Processes, each with one thread.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds a set made with other settings.
    """
    folder = Path(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    settings = {"objects": objects, "views": views, "seed": seed, "size": _SIZE}
    note = folder / "settings.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise ValueError(
            f"{folder} holds another set ({note.read_text().strip()}); use a new folder"
        )
    note.write_text(json.dumps(settings) + "\n")
    if (folder / "scenes.jsonl").exists():
        return folder
    for left in (folder / "shards").glob(".*.npz"):
        left.unlink()
    starts = range(0, objects, _OBJECTS_A_SHARD)
    task = functools.partial(
        _render_shard, folder=str(folder), objects=objects, views=views, seed=seed
    )
    bar = tqdm(total=objects * views, unit="render", smoothing=0.05, mininterval=2.0)
    with (
        bar,
        multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool,
    ):
        for done in pool.imap_unordered(task, starts):
            bar.update(done * views)
    _merge(folder, [folder / "shards" / f"{start:06d}.npz" for start in starts], objects, views)
    return folder


def _merge(folder: Path, shards: list[Path], objects: int, views: int) -> None:
    """Joins the shards into the final files (``scenes.jsonl`` last) and removes them."""
    total = objects * views
    open_memmap = functools.partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
    images = open_memmap(folder / "images.npy", shape=(total, _SIZE, _SIZE, 3))
    masks = open_memmap(folder / "masks.npy", shape=(total, _SIZE, _SIZE))
    lines: list[str] = []
    for shard in shards:
        with np.load(shard) as data:
            at = slice(len(lines), len(lines) + len(data["images"]))
            images[at], masks[at] = data["images"], data["masks"]
            for text in data["scenes"].tolist():
                record = json.loads(text) | {"object_id": len(lines) // views}
                lines.append(json.dumps(record))
    images.flush()
    masks.flush()
    part = folder / "scenes.jsonl.part"
    part.write_text("\n".join(lines) + "\n")
    part.replace(folder / "scenes.jsonl")
    for shard in shards:
        shard.unlink()
    (folder / "shards").rmdir()


class RenderedWorld(Dataset):
    """A rendered set.

    Attributes:
        images: uint8 memmap (N, 128, 128, 3).
        masks: uint8 memmap (N, 128, 128), 1 on the object.
        scenes: The N scenes.
        object_ids: int64 (N,); equal for views of the same object.
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens the folder written by :func:`render_dataset`.

        Raises:
            FileNotFoundError: The folder holds no finished set.
        """
        folder = Path(folder)
        if not (folder / "scenes.jsonl").exists():
            raise FileNotFoundError(
                f"{folder} holds no finished set; make one: dreammatcher world render {folder}"
            )
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")
        records = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
        self.scenes = [SceneSpec.from_dict(record) for record in records]
        self.object_ids = np.array([record["object_id"] for record in records], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, SceneSpec]:
        """The picture, uint8 (3, H, W), and its scene."""
        picture = torch.from_numpy(np.array(self.images[index])).permute(2, 0, 1).contiguous()
        return picture, self.scenes[index]


def main() -> None:
    """Command line of :func:`render_dataset`."""
    parser = argparse.ArgumentParser(description="Render a training set of the toy world.")
    parser.add_argument("folder")
    parser.add_argument("--objects", type=int, default=4000)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    render_dataset(**vars(arguments))


if __name__ == "__main__":
    main()
