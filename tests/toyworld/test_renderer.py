"""The procedural world: renders, ground truth, captions, concepts and data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from framework.toyworld.captions import VOCABULARY, caption, words
from framework.toyworld.concepts import (
    CHALLENGING_PROMPTS,
    CONCEPTS,
    PROMPTS,
    TUNING_CONCEPTS,
    concept,
    is_concept,
)
from framework.toyworld.correspondence import correspondence
from framework.toyworld.dataset import (
    RenderedWorld,
    render_dataset,
    training_object,
    training_scene,
)
from framework.toyworld.objects import CATEGORIES, build
from framework.toyworld.palette import PATTERNS, pattern_mask
from framework.toyworld.references import REFERENCES, reference_scenes
from framework.toyworld.render import ACCESSORY, OCCLUDER, render
from framework.toyworld.scene import (
    ACCESSORIES,
    CONDITIONS,
    PLACES,
    Accessory,
    SceneSpec,
    sample_object,
    sample_scene,
)


def _scene(category: str, seed: int = 0, **fixed: object) -> SceneSpec:
    rng = np.random.default_rng([seed, 11])
    return sample_scene(rng, sample_object(rng, category), **({"condition": None} | fixed))


def test_the_world_is_rich_enough() -> None:
    assert len(CATEGORIES) >= 10
    assert len(PLACES) >= 8
    assert len(ACCESSORIES) >= 4
    assert len(CONCEPTS) >= 12
    per_category = [spec.category for spec in CONCEPTS.values()]
    assert max(per_category.count(c) for c in per_category) <= 2
    assert len(PROMPTS) >= 16
    assert len(CHALLENGING_PROMPTS) >= 12


@pytest.mark.parametrize("category", list(CATEGORIES))
def test_geometry_has_the_parts_it_names_and_unit_size(category: str) -> None:
    kind = CATEGORIES[category]
    built = build(category, {})
    assert set(built.parts) == {*kind.parts, *kind.fixed}
    vertices = np.concatenate([mesh.vertices for mesh, _ in built.parts.values()])
    assert vertices[:, 2].min() == pytest.approx(0.0, abs=1e-9)
    assert np.ptp(vertices, axis=0).max() == pytest.approx(1.0)
    for mesh, _ in built.parts.values():
        assert np.allclose(np.linalg.norm(mesh.normals, axis=-1), 1.0, atol=1e-6)


def test_shading_normals_agree_with_the_faces() -> None:
    for category in CATEGORIES:
        for name, (mesh, _) in build(category, {}).parts.items():
            corner = mesh.vertices[mesh.faces]
            flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
            area = np.linalg.norm(flat, axis=1)
            cosine = np.einsum("ij,ij->i", flat, mesh.normals.mean(1)) / np.maximum(area, 1e-12)
            big = area > 1e-4
            assert np.mean(np.abs(cosine[big]) > 0.6) > 0.97, (category, name)


def test_renders_are_deterministic_and_follow_the_scene() -> None:
    scene = _scene("mug", accessory=Accessory("hat", "red"))
    first, second = render(scene), render(scene)
    assert first.rgb.dtype == np.uint8
    assert first.rgb.shape == (128, 128, 3)
    assert np.array_equal(first.rgb, second.rgb)
    assert np.array_equal(first.coords, second.coords, equal_nan=True)
    other = render(SceneSpec.from_dict(scene.to_dict() | {"azimuth": scene.azimuth + 20.0}))
    assert not np.array_equal(first.rgb, other.rgb)


@pytest.mark.parametrize("category", ["car", "teapot", "snowman"])
@pytest.mark.parametrize("condition", [None, "box", "close"])
def test_masks_parts_coords_and_camera_agree(category: str, condition: str | None) -> None:
    view = render(
        _scene(
            category,
            1,
            accessory=Accessory("crown", "blue"),
            **(
                {"condition": condition, "occluder": "box"}
                if condition == "box"
                else {"condition": condition, "size": 1.05}
                if condition
                else {}
            ),
        )
    )
    assert np.array_equal(view.mask, view.parts > 0)
    assert np.array_equal(np.isfinite(view.coords).all(-1), view.mask)
    assert np.array_equal(np.isfinite(view.depth), view.parts != 0)
    assert view.parts.max() <= len(view.part_names)
    assert (view.parts == ACCESSORY).any() or condition == "close"
    assert (view.parts == OCCLUDER).any() == (condition == "box")
    rows, columns = np.nonzero(view.mask)
    xy, depth = view.camera.project(view.coords[view.mask])
    assert np.abs(xy - np.stack([columns, rows], axis=1)).max() < 0.01
    assert np.allclose(depth, view.depth[view.mask], atol=1e-4)
    assert view.coords[view.mask][:, 2].min() > -0.01
    assert np.abs(view.coords[view.mask]).max() < 1.01


def test_objects_have_the_size_and_position_asked_for() -> None:
    for category in ("house", "boat", "duck"):
        scene = _scene(category, accessory=None, size=0.6, position=(0.05, -0.02), elevation=15.0)
        rows, columns = np.nonzero(render(scene).mask)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(0.6 * 128, abs=3)
        middle = (columns.min() + columns.max()) / 2
        assert middle == pytest.approx(63.5 + 0.05 * 128, abs=2)


def test_correspondence_with_itself_is_the_identity() -> None:
    view = render(_scene("robot"))
    xy, visible = correspondence(view, view)
    rows, columns = np.nonzero(view.mask)
    assert np.abs(xy[view.mask] - np.stack([columns, rows], axis=1)).max() < 0.01
    assert np.array_equal(visible, view.mask)


@pytest.mark.parametrize("category", ["mug", "house", "duck", "boat", "cat"])
def test_correspondence_meets_the_same_surface_in_the_other_view(category: str) -> None:
    scene = _scene(category, 2, accessory=None, size=0.62)
    a = render(scene)
    moved = {"azimuth": scene.azimuth + 25, "size": 0.75, "position": [0.04, 0.0], "place": "snow"}
    b = render(SceneSpec.from_dict(scene.to_dict() | moved))
    xy, visible = correspondence(a, b)
    assert visible.sum() > 0.4 * a.mask.sum()
    assert np.array_equal(np.isfinite(xy).all(-1), a.mask)
    column, row = np.round(xy[visible]).astype(int).T
    column, row = column.clip(0, 127), row.clip(0, 127)
    seen = b.mask[row, column]
    assert seen.mean() > 0.97
    points, there = a.coords[visible][seen], b.coords[row, column][seen]
    near = np.linalg.norm(points - there, axis=1) < 0.05
    assert near.mean() > 0.93
    same_part = a.parts[visible][seen] == b.parts[row, column][seen]
    assert same_part.mean() > 0.9
    # the coordinates that b's own rays found around the position are those of a's point
    corner = np.floor(xy[visible]).astype(int).clip(0, 126)
    share = xy[visible] - corner
    around = [(corner[:, 1] + dy, corner[:, 0] + dx) for dy in (0, 1) for dx in (0, 1)]
    weight = [
        np.abs(1 - dy - share[:, 1]) * np.abs(1 - dx - share[:, 0])
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    found = np.stack([b.coords[at] for at in around])
    smooth = np.isfinite(found).all((0, 2)) & (np.ptp(found, axis=0).max(1) < 0.03)
    smooth &= np.ptp(np.stack([b.parts[at] for at in around]), axis=0) == 0
    assert smooth.mean() > 0.5
    blended = sum(w[:, None] * c for w, c in zip(weight, found, strict=True))
    error = np.linalg.norm(blended - a.coords[visible], axis=1)[smooth]
    pixel = b.depth[b.mask].max() / b.camera.focal
    assert np.quantile(error, 0.97) < 0.5 * pixel  # the rest: creases within one part
    assert np.median(error) < 0.15 * pixel


def test_visibility_knows_occluders_frames_and_backs() -> None:
    scene = _scene("snowman", 3, accessory=None)
    a = render(scene)
    hidden = render(SceneSpec.from_dict(scene.to_dict() | {"occluder": "box"}))
    xy, visible = correspondence(a, hidden)
    column, row = np.round(xy[a.mask]).astype(int).T
    agree = visible[a.mask] == hidden.mask[row.clip(0, 127), column.clip(0, 127)]
    assert agree.mean() > 0.98
    assert visible.sum() < 0.95 * a.mask.sum()
    behind = render(SceneSpec.from_dict(scene.to_dict() | {"azimuth": scene.azimuth + 180}))
    assert correspondence(a, behind)[1].sum() < 0.15 * a.mask.sum()
    outside = render(SceneSpec.from_dict(scene.to_dict() | {"position": [0.45, 0.0]}))
    xy, visible = correspondence(a, outside)
    assert (xy[visible] < 127.51).all()
    assert visible.sum() < 0.9 * a.mask.sum()


def test_correspondence_refuses_different_objects() -> None:
    with pytest.raises(ValueError, match="different objects"):
        correspondence(render(_scene("mug"), 32), render(_scene("car"), 32))


@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_patterns_are_coarse_and_cover_a_fair_share(pattern: str) -> None:
    mesh, mapping = build("mug", {}).parts["body"]
    points = mesh.vertices[mesh.faces].mean(1)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    rng = np.random.default_rng(0)
    face = rng.integers(len(mesh.faces), size=4000)
    weight = rng.dirichlet(np.ones(3), size=4000)[..., None]
    points = (mesh.vertices[mesh.faces[face]] * weight).sum(1)
    painted = pattern_mask(pattern, points, mesh.normals[face].mean(1), mapping, low, high)
    assert 0.2 < painted.mean() < 0.8


def test_unknown_names_are_refused_helpfully() -> None:
    with pytest.raises(KeyError, match="harlequin_mug"):
        concept("harlekin_mug")
    with pytest.raises(ValueError, match="no category"):
        build("dragon", {})
    with pytest.raises(ValueError, match="no pattern"):
        pattern_mask("paisley", np.zeros((1, 3)), np.zeros((1, 3)), "box", np.zeros(3), np.ones(3))
    with pytest.raises(FileNotFoundError, match="dreammatcher world render"):
        RenderedWorld("no_such_folder")


def test_scenes_survive_json() -> None:
    for index in range(60):
        scene = training_scene(5, index, index % 4)
        assert SceneSpec.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_the_vocabulary_is_closed_and_captions_short() -> None:
    known, used = set(VOCABULARY), set()
    assert list(VOCABULARY) == sorted(known)
    for index in range(3000):
        scene = training_scene(6, index, 0)
        text = caption(scene, np.random.default_rng(index))
        used |= set(words(text))
        assert text == text.lower()
        assert len(words(text)) <= 24
    for spec in CONCEPTS.values():
        used |= set(words(caption(sample_scene(np.random.default_rng(0), spec))))
    for prompt in (*PROMPTS, *CHALLENGING_PROMPTS):
        assert prompt.count("{}") == 1
        used |= set(words(prompt.replace("{}", "")))
    assert known - used == {kind.parts[0] for kind in CATEGORIES.values()} - used
    assert used <= known


def test_full_captions_tell_everything() -> None:
    scene = SceneSpec(concept("harlequin_mug"), "grass", Accessory("hat", "red"))
    assert caption(scene) == (
        "a photo of a red mug with yellow checks and a blue handle, wearing a red hat, on the grass"
    )
    assert (
        caption(scene, subject="sks mug") == "a photo of a sks mug, wearing a red hat, on the grass"
    )


def test_about_a_third_of_the_scenes_are_challenging() -> None:
    scenes = [training_scene(7, index, 0) for index in range(600)]
    assert 0.24 < np.mean([s.condition is not None for s in scenes]) < 0.36
    assert {s.condition for s in scenes} == {None, *CONDITIONS}
    assert all(
        (s.occluder is not None) == (s.condition == s.occluder) for s in scenes if s.occluder
    )


def test_concepts_are_never_training_objects() -> None:
    assert all(is_concept(spec) for spec in CONCEPTS.values())
    assert len({spec.appearance() for spec in CONCEPTS.values()}) == len(CONCEPTS)
    assert not any(is_concept(training_object(0, index)) for index in range(1000))


def test_tuning_concepts_are_others_and_held_out_too() -> None:
    assert len(TUNING_CONCEPTS) == 8
    assert not set(TUNING_CONCEPTS) & set(CONCEPTS)
    looks = [spec.appearance() for spec in (*CONCEPTS.values(), *TUNING_CONCEPTS.values())]
    assert len(set(looks)) == len(looks)
    for name, spec in TUNING_CONCEPTS.items():
        assert concept(name) is spec and is_concept(spec)
        kind = CATEGORIES[spec.category]
        assert list(spec.parts) == [*kind.parts, *kind.fixed]
        assert all(low <= spec.shape[key] <= high for key, (low, high) in kind.shape.items())
        assert len({scene.place for scene in reference_scenes(name)}) == 5


def test_training_never_draws_a_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.toyworld import dataset

    draws = iter(
        [concept("taxi_car"), concept("clown_cat"), sample_object(np.random.default_rng(1))]
    )
    monkeypatch.setattr(dataset, "sample_object", lambda rng: next(draws))
    assert not is_concept(training_object(0, 0))


def test_bundled_references_are_the_renders_of_their_scenes() -> None:
    from PIL import Image

    records = json.loads((REFERENCES / "metadata.json").read_text())
    assert list(records) == list(CONCEPTS)
    for name, record in records.items():
        assert len({image["scene"]["place"] for image in record["images"]}) == 5
        assert all((REFERENCES / image["file"]).exists() for image in record["images"])
        scene = SceneSpec.from_dict(record["images"][0]["scene"])
        assert scene == reference_scenes(name)[0]
        assert scene.accessory is None
        assert scene.condition is None
    picture = np.asarray(Image.open(REFERENCES / "harlequin_mug" / "0.png")).astype(int)
    assert np.abs(picture - render(reference_scenes("harlequin_mug")[0]).rgb).mean() < 0.5


def test_data_sets_resume_and_do_not_depend_on_the_workers(tmp_path) -> None:
    render_dataset(tmp_path / "set", objects=2, views=2, seed=9, workers=1)
    world = RenderedWorld(tmp_path / "set")
    assert len(world) == 4
    assert world.object_ids.tolist() == [0, 0, 1, 1]
    picture, scene = world[3]
    assert picture.shape == (3, 128, 128)
    assert scene == training_scene(9, 1, 1)
    view = render(scene)
    assert np.array_equal(picture.permute(1, 2, 0).numpy(), view.rgb)
    assert np.array_equal(world.masks[3].astype(bool), view.mask)
    before = (tmp_path / "set" / "images.npy").stat().st_mtime_ns
    render_dataset(tmp_path / "set", objects=2, views=2, seed=9, workers=1)
    assert (tmp_path / "set" / "images.npy").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another set"):
        render_dataset(tmp_path / "set", objects=3, views=2, seed=9, workers=1)
