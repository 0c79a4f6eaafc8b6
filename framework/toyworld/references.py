"""The reference images of the held-out concepts, bundled with the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from framework.concepts.folders import write_concept_file
from framework.toyworld.captions import caption
from framework.toyworld.concepts import CONCEPTS, TUNING_CONCEPTS, concept
from framework.toyworld.objects import CATEGORIES
from framework.toyworld.render import render
from framework.toyworld.scene import PLACES, SceneSpec, sample_scene

IMAGES_A_CONCEPT = 5
REFERENCES = Path(__file__).parent / "concepts_data"
"""Where the bundled references lie: ``<name>/0.png .. 4.png`` and ``metadata.json``."""


def reference_scenes(name: str) -> list[SceneSpec]:
    """The scenes of a concept's references: usual views, different places, no accessory."""
    spec, index = concept(name), [*CONCEPTS, *TUNING_CONCEPTS].index(name)
    rng = np.random.default_rng([20240216, index])
    places = [str(p) for p in rng.permutation(PLACES)[:IMAGES_A_CONCEPT]]
    yaw = CATEGORIES[spec.category].yaw
    turns = rng.permutation(np.linspace(-40.0, 40.0, IMAGES_A_CONCEPT))
    return [
        sample_scene(
            rng,
            spec,
            condition=None,
            accessory=None,
            place=place,
            azimuth=round(float(yaw + turn + rng.uniform(-6, 6)), 4),
            size=round(float(rng.uniform(0.64, 0.78)), 4),
        )
        for place, turn in zip(places, turns, strict=True)
    ]


def write_references(folder: str | Path) -> Path:
    """Renders every concept's reference images.

    Writes ``<name>/0.png .. 4.png`` (128 x 128) with a ``concept.yaml`` that names the class, and
    ``metadata.json``: for every concept its class noun, its object, and file name, scene and full
    caption of every image.

    Args:
        folder: Where to; made if need be.

    Returns:
        The path of ``metadata.json``.
    """
    folder = Path(folder)
    records = {}
    for name, spec in CONCEPTS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_concept_file(folder / name, spec.category)
        images = []
        for index, scene in enumerate(reference_scenes(name)):
            file = f"{name}/{index}.png"
            Image.fromarray(render(scene).rgb).save(folder / file, optimize=True)
            images.append({"file": file, "caption": caption(scene), "scene": scene.to_dict()})
        records[name] = {"class": spec.category, "object": spec.to_dict(), "images": images}
    path = folder / "metadata.json"
    path.write_text(json.dumps(records, indent=1) + "\n")
    return path
