"""Which family serves a pipeline, and that nobody else names one's network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from toy_family import Toy, ToyPipeline, toy_pipeline

from framework.backbones.choose import HOW_TO_ADD, backbone_of, family_of
from framework.backbones.stable_diffusion import StableDiffusion, StableDiffusionXL
from framework.errors import UserError
from framework.interfaces import BACKBONES

ROOT = Path(__file__).parents[2]
#: Rooms that may name a U-Net: the families, everybody's files, and the world that trains one.
ROOMS = ("framework/backbones/", "framework/training/formats/", "framework/toyworld/")


def test_nothing_outside_the_backbones_names_a_unet():
    files = [
        file
        for house in ("framework", "matchers", "personalizers")
        for file in (ROOT / house).rglob("*.py")
    ]
    naming = [
        place
        for file in files
        if not (place := file.relative_to(ROOT).as_posix()).startswith(ROOMS)
        and re.search(r"u-?net", file.read_text(), re.IGNORECASE)
        and "cli/world" not in place
    ]
    assert len(files) > 100 and not naming


def test_each_family_is_found_by_its_pipeline(sd1, sdxl):
    assert (
        type(backbone_of(sd1)) is StableDiffusion and type(backbone_of(sdxl)) is StableDiffusionXL
    )
    for name, cls in (("StableDiffusionPipeline", StableDiffusion), ("ToyPipeline", Toy)):
        assert family_of({"_class_name": name}, "it") is cls


def test_the_nearest_family_serves_a_pipeline_derived_from_anothers(monkeypatch):
    monkeypatch.setattr(BACKBONES, "_classes", dict(BACKBONES._classes))

    class Derived(ToyPipeline):
        pass

    pipe = toy_pipeline()
    pipe.__class__ = Derived
    assert type(backbone_of(pipe)) is Toy

    @BACKBONES.register("derived")
    class Nearer(Toy):
        pipelines = ("Derived",)

    assert type(backbone_of(pipe)) is Nearer


def test_any_other_family_is_refused_by_name():
    for refused in (
        lambda: backbone_of(object()),
        lambda: family_of({"_class_name": "FluxPipeline"}, "there"),
    ):
        with pytest.raises(UserError) as error:
            refused()
        said = str(error.value)
        assert "is not supported. Supported: " in said and said.endswith(HOW_TO_ADD)
    assert "'there' holds a FluxPipeline" in said
    assert (ROOT / "framework/backbones/README.md").is_file()
