"""A labelled contact sheet of the toy world."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from framework.toyworld.captions import caption
from framework.toyworld.concepts import CONCEPTS
from framework.toyworld.correspondence import correspondence
from framework.toyworld.objects import CATEGORIES
from framework.toyworld.references import reference_scenes
from framework.toyworld.render import render
from framework.toyworld.scene import CONDITIONS, PLACES, Accessory, sample_object, sample_scene

_TILE = 160
_LABEL = 44
_COLUMNS = 8
_INK = (40, 40, 48)


def _tile(picture: np.ndarray, label: str) -> Image.Image:
    """A picture over its label, wrapped to three lines."""
    tile = Image.new("RGB", (_TILE, _TILE + _LABEL), "white")
    tile.paste(Image.fromarray(picture), (0, 0))
    lines = textwrap.wrap(label, 31)[:3]
    font = ImageFont.load_default(10)
    ImageDraw.Draw(tile).multiline_text((3, _TILE + 2), "\n".join(lines), _INK, font, spacing=2)
    return tile


def _world_tiles(seed: int) -> list[Image.Image]:
    """Four scenes of every category: plain, plain, with an accessory, with a condition."""
    tiles = []
    for row, category in enumerate(CATEGORIES):
        for column in range(4):
            rng = np.random.default_rng([seed, row, column])
            fixed: dict = {"condition": None, "accessory": None}
            fixed["place"] = PLACES[(row * 4 + column) % len(PLACES)]
            if column == 2:
                fixed["accessory"] = Accessory(
                    ("hat", "crown", "scarf", "flag", "balloon")[row % 5], ("red", "blue")[row % 2]
                )
            if column == 3:
                fixed["condition"] = CONDITIONS[row % len(CONDITIONS)]
            scene = sample_scene(rng, sample_object(rng, category), **fixed)
            tiles.append(_tile(render(scene, _TILE).rgb, caption(scene, rng)))
    return tiles


def _concept_tiles() -> list[Image.Image]:
    """Four reference views of every held-out concept."""
    return [
        _tile(render(scene, _TILE).rgb, f"{name} {index}")
        for name in CONCEPTS
        for index, scene in enumerate(reference_scenes(name)[:4])
    ]


def _correspondence_tiles(names: tuple[str, ...]) -> list[Image.Image]:
    """For each concept: two views, the second drawn onto the first, and what both see."""
    tiles = []
    for name in names:
        first, second = (render(scene, _TILE) for scene in reference_scenes(name)[:2])
        xy, visible = correspondence(first, second)
        column, row = (np.clip(np.round(xy[visible]), 0, _TILE - 1).astype(int)).T
        warped = np.full_like(first.rgb, 255)
        warped[visible] = second.rgb[row, column]
        seen = np.where(first.mask[..., None], np.array([230, 90, 60]), 255).astype(np.uint8)
        seen[visible] = (60, 170, 90)
        labels = ("a", "b", "b fetched to a", "of a visible in b (green)")
        pictures = (first.rgb, second.rgb, warped, seen)
        tiles += [_tile(p, f"{name}: {t}") for p, t in zip(pictures, labels, strict=True)]
    return tiles


def contact_sheet(path: str | Path, seed: int = 0) -> Path:
    """Writes a contact sheet: categories and places with captions, concepts, correspondences.

    Args:
        path: PNG to write.
        seed: Which objects and scenes are drawn.

    Returns:
        The path.
    """
    sections = {
        "categories, places, accessories and conditions": _world_tiles(seed),
        "held-out concepts": _concept_tiles(),
        "ground-truth correspondence": _correspondence_tiles(
            ("harlequin_mug", "regatta_boat", "tuxedo_duck", "taxi_car")
        ),
    }
    gap, title = 6, 30
    high = _TILE + _LABEL
    rows = {name: -(-len(tiles) // _COLUMNS) for name, tiles in sections.items()}
    height = sum(title + count * (high + gap) for count in rows.values())
    sheet = Image.new("RGB", (_COLUMNS * (_TILE + gap) + gap, height + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    top = 0
    for name, tiles in sections.items():
        draw.text((gap, top + 5), name, _INK, font)
        top += title
        for index, tile in enumerate(tiles):
            row, column = divmod(index, _COLUMNS)
            sheet.paste(tile, (gap + column * (_TILE + gap), top + row * (high + gap)))
        top += rows[name] * (high + gap)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
