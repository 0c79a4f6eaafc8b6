from __future__ import annotations

import pytest
from PIL import Image

from framework.concepts.folders import list_concepts, load_concept, safe_name, write_concept_file
from framework.config.page import ConceptConfig
from framework.errors import UserError


@pytest.fixture
def library(tmp_path):
    for name in ("Red_Mug", "blue-duck"):
        folder = tmp_path / "library" / name
        folder.mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (20, 20), (index, 0, 0)).save(folder / f"{index}.png")
        write_concept_file(folder, name.split("_")[-1].lower())
    return tmp_path / "library"


def config(library, **options):
    return ConceptConfig(library=str(library), **options)


def test_by_name(library):
    concept = load_concept(config(library, name="Red_Mug"))
    assert (concept.name, concept.placeholder) == ("red_mug", "<red_mug>")
    assert concept.class_name == "mug"
    assert concept.phrase == "<red_mug> mug"
    assert [image.getpixel((0, 0))[0] for image in concept.images] == [0, 1]
    assert [path.name for path in concept.sources] == ["0.png", "1.png"]


def test_path_goes_before_name_and_config_before_file(library):
    folder = library / "blue-duck"
    write_concept_file(folder, "duck", placeholder="<d>", name="ducky")
    concept = load_concept(config(library, path=str(folder)))
    assert (concept.name, concept.placeholder, concept.class_name) == ("ducky", "<d>", "duck")
    options = {"name": "other", "placeholder": "<o>", "class_name": "rubber  toy "}
    concept = load_concept(config(library, path=str(folder), **options))
    assert (concept.name, concept.placeholder) == ("other", "<o>")
    assert concept.class_name == "rubber toy"
    assert load_concept(config(library, path=str(folder), placeholder="")).phrase == "duck"


def test_unknown_and_missing_names(library):
    with pytest.raises(UserError, match="Did you mean 'Red_Mug'"):
        load_concept(config(library, name="red_mugs"))
    with pytest.raises(UserError, match="Red_Mug, blue-duck"):
        load_concept(config(library))
    with pytest.raises(UserError, match="Unknown concept"):
        load_concept(config(library, name="../library"))
    with pytest.raises(UserError, match="does not exist"):
        load_concept(config(library, path=str(library / "none")))
    assert list_concepts(library / "none") == []


def test_class_name_is_asked_for(library):
    (library / "Red_Mug" / "concept.yaml").unlink()
    with pytest.raises(UserError, match="concept.class_name="):
        load_concept(config(library, name="Red_Mug"))
    assert load_concept(config(library, name="Red_Mug", class_name="mug")).class_name == "mug"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class: mug", "Did you mean 'class_name'"),
        ("class_name: [mug]", "expected text"),
        ("- mug", "holds a list"),
        ("class_name: {", "not valid YAML"),
    ],
)
def test_malformed_concept_file(library, text, words):
    (library / "Red_Mug" / "concept.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_concept(config(library, name="Red_Mug"))


def test_names_are_safe_for_files_and_prompts():
    assert safe_name("My Duck (2)!") == "my-duck-2"
    assert safe_name("../x") == "x"
    assert safe_name("???") == "concept"


def test_embedded_library_loads():
    library = ConceptConfig().library
    names = list_concepts(library)
    assert len(names) >= 12
    for name in names:
        concept = load_concept(ConceptConfig(name=name))
        assert len(concept.images) == 5
        assert concept.class_name in name.replace("_", " ") or concept.class_name.isalpha()
