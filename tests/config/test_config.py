from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from framework.config.page import MAX_SEED, Config, load_config, to_plain
from framework.config.resources import config_file, resolve_path, shipped_configs
from framework.errors import UserError


def refusal(source=None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ------------------------------------------------------------------ sources


#: Plans of ablations have a form of their own, see tests/experiments/test_shipped.py.
CONFIGURATIONS = [name for name in shipped_configs() if not name.startswith("ablations/")]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_shipped_configuration_loads(name):
    config = load_config(name, ["model.path=somewhere"])
    assert config.model.path == "somewhere"
    for kind in ("trajectory", "extractor", "mask", "matcher", "injector", "guidance"):
        assert config.part(kind) is not None


@pytest.mark.parametrize("name", [n for n in shipped_configs() if n.startswith("models/sd")])
def test_models_without_weights_of_their_own_ask_for_a_path(name):
    assert refusal(name) == "model.path has no value yet; give one: model.path=..."


def test_default_is_the_embedded_world():
    assert load_config().model.path.startswith("package:framework.toyworld")
    assert to_plain(load_config("default")) == to_plain(load_config())


def test_sources_are_equivalent(tmp_path):
    tree = {"matcher": {"cycle_threshold": 0.3}, "seeds": [4]}
    path = write(tmp_path, "mine.yaml", OmegaConf.to_yaml(OmegaConf.create(tree)))
    loaded = [load_config(s) for s in (tree, OmegaConf.create(tree), path, str(path))]
    assert all(to_plain(config) == to_plain(loaded[0]) for config in loaded)
    assert loaded[0].matcher == {"name": "cycle_argmax", "cycle_threshold": 0.3}
    assert loaded[0].seeds == [4]


def test_a_configuration_goes_through_yaml_unchanged(tmp_path):
    config = load_config("presets/paper", ["model.path=x", "seeds=[1,2]"])
    again = load_config(write(tmp_path, "config.yaml", config.to_yaml()))
    assert to_plain(again) == to_plain(config)
    assert to_plain(load_config(config, ["seed=3"])) == {**to_plain(config), "seed": 3}


def test_later_sources_win():
    config = load_config(["presets/paper", "models/sd2"], ["model.path=x"])
    assert config.mask["resolution"] == 24
    assert config.guidance["name"] == "semantic_matching"


def test_file_without_base_stands_on_the_default_and_empty_base_on_the_classes(tmp_path):
    assert load_config(write(tmp_path, "a.yaml", "seed: 1")).sampler == load_config().sampler
    alone = load_config(write(tmp_path, "b.yaml", "base: []\nseed: 1"))
    assert alone.sampler == Config().sampler
    assert load_config({"base": []}).sampler == Config().sampler


def test_bases_beside_the_file_and_shipped(tmp_path):
    write(tmp_path, "low.yaml", "base: [models/embedded]\nmatcher: {cycle_threshold: 0.1}\nseed: 5")
    high = write(tmp_path, "high.yaml", "base: [low]\nseed: 6")
    config = load_config(high)
    assert (config.matcher["cycle_threshold"], config.seed) == (0.1, 6)


def test_a_renamed_part_keeps_nothing_of_the_old_one():
    config = load_config({"mask": {"name": "none"}})
    assert config.mask == {"name": "none"}
    assert load_config(None, ["mask=none"]).mask == {"name": "none"}
    assert load_config(None, ["guidance=semantic_matching"]).guidance["weight"] == 75.0


def test_interpolation_in_files_and_overrides(tmp_path):
    path = write(
        tmp_path,
        "i.yaml",
        "seed: 3\n"
        "seeds: ['${seed}', 9]\n"
        "sampler: {num_inference_steps: 12, reference_prompt: 'a photo of a {}'}\n"
        "injector: {start_step: '${seed}', end_step: '${sampler.num_inference_steps}'}\n"
        "matcher: {cycle_threshold: '${.half}', half: 1}\n",
    )
    assert "Unknown key 'matcher.half'" in refusal(path)
    path.write_text(path.read_text().replace("'${.half}', half: 1", "0.2"))
    config = load_config(path, ["prompts=['${sampler.reference_prompt}']"])
    assert config.seeds == [3, 9]
    assert (config.injector["start_step"], config.injector["end_step"]) == (3, 12)
    assert config.prompts == ["a photo of a {}"]
    assert load_config(None, ["seed=${sampler.batch_size}"]).seed == 8  # a default not in any file


def test_values_of_overrides():
    config = load_config(
        None,
        [
            "sampler.reference_prompt=a picture of a {}",
            "extractor.pca=null",
            "injector.layers=['up_blocks\\.1\\..*attn1']",
            "seeds=[0, 5]",
            "model.path=a=b",
        ],
    )
    assert config.sampler.reference_prompt == "a picture of a {}"
    assert config.extractor["pca"] is None
    assert config.injector["layers"] == [r"up_blocks\.1\..*attn1"]
    assert config.seeds == [0, 5]
    assert config.model.path == "a=b"


def test_no_option_is_lost_by_the_order_of_overrides():
    options = ["personalizer.steps=7", "matcher.cycle_threshold=0.2"]
    names = ["personalizer=dreambooth", "matcher.name=cycle_argmax"]
    config = load_config(None, options + names)
    assert config == load_config(None, names + options)
    assert (config.personalizer["name"], config.personalizer["steps"]) == ("dreambooth", 7)
    assert "Did you mean" in refusal(None, "matcher.cycle_treshold=0.2", "matcher=cycle_argmax")


def test_parts_are_built_with_their_options():
    config = load_config(None, ["matcher.cycle_threshold=0.25"])
    assert config.part("matcher").config.cycle_threshold == 0.25
    assert config.part("matcher", cycle_threshold=0.75).config.cycle_threshold == 0.75


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sampler.num_inference_steps=0", "sampler.num_inference_steps is 0; expected a value in"),
        ("sampler.num_inference_steps=abc", "is 'abc'; expected an integer."),
        ("sampler.num_inference_steps=null", "num_inference_steps is null; expected an integer."),
        ("sampler.guidance_scale=-1", "sampler.guidance_scale is -1; expected at least 0."),
        ("matcher.cycle_threshold=1.5", "matcher.cycle_threshold is 1.5; expected a value in [0,"),
        ("matcher.cycle_threshold=-0.1", "expected a value in [0, 1]"),
        ("matcher.cycle_treshold=1", "'matcher.cycle_treshold'. Did you mean 'cycle_threshold'?"),
        ("matcher=cycle_argmx", "Unknown matcher 'cycle_argmx'. Did you mean 'cycle_argmax'?"),
        ("matcher=null", "matcher is null; expected a mapping with a name"),
        ("matcher.name=[1]", "matcher.name is [1]; expected text"),
        ("samplr.x=3", "Unknown configuration key 'samplr'. Did you mean 'sampler'?"),
        ("sampler=[1]", "sampler is [1]; expected a mapping of options."),
        ("sampler=null", "sampler is null; expected a mapping of options."),
        ("sampler.resize=crp", "sampler.resize is 'crp'; expected one of"),
        ("model.dtype=float", "model.dtype is 'float'; expected one of 'float32'"),
        ("model.channels_last=maybe", "expected true or false."),
        ("injector.layers=abc", "injector.layers is 'abc'; expected a list of texts."),
        ("seeds=3", "seeds is 3; expected a list of integers."),
        ("seeds=[a]", "seeds is ['a']; expected a list of integers."),
        ("seeds=[]", "seeds is empty"),
        ("seeds=[-1]", "seeds has -1"),
        (f"seed={MAX_SEED + 1}", "seed has"),
        ("prompts=[]", "prompts is empty"),
        ("prompts=x", "prompts is 'x'; expected a list of texts."),
        ("output=[1]", "output is [1]; expected text or null."),
        ("plugins=foo", "plugins is 'foo'; expected a list of module names."),
        ("foo", "'foo' is no override; expected key=value"),
        ("=3", "'=3' is no override"),
        ("a..b=3", "'a..b=3' is no override"),
        ("prompts=[a {} b]", "cannot be read"),
        ("seed=${sampler.foo}", "seed: Interpolation key 'sampler.foo' not found"),
        ("seed=${seed}", "seed: Recursive interpolation"),
        ("seed=${", "'seed=${' cannot be read"),
        ("seed=true", "seed is true; expected an integer."),
        ("seeds=[true]", "seeds is [true]; expected a list of integers."),
        ("concept.name=yes", "concept.name is true; expected text or null."),
        ("prompts={a: b}", "prompts is {'a': 'b'}; expected a list of texts."),
        ("injector.layers=[[a]]", "injector.layers is [['a']]; expected a list of texts."),
        ("sampler.scheduler_options=[1]", "scheduler_options is [1]; expected a mapping."),
        ("concepts=[1]", "concepts is [1]; expected a list of mappings"),
        ("concepts=[{nam: x}]", "Unknown key 'concepts[0].nam'. Did you mean 'name'?"),
        ("personalizers=[1]", "personalizers is [1]; expected a mapping of methods"),
        ('injector.layers=["a\\.b"]', "put a regular expression in single quotes"),
    ],
)
def test_bad_overrides(override, expected):
    text = refusal(None, override)
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2", "mine.yaml, line 2 is not valid YAML"),
        ("a: b: c", "mine.yaml, line 1 is not valid YAML"),
        ("\tx: 1", "is not valid YAML"),
        ("- 1\n- 2", "holds a list; expected a mapping of sections."),
        ("just words", "Unknown configuration key 'just words'"),
        ("base: [nowhere]", "No configuration 'nowhere'"),
        ("base: {a: 1}", "expected a list of file names"),
        ("base: [mine]", "includes itself through 'base'"),
        ("matchr: {name: x}", "Unknown configuration key 'matchr'. Did you mean 'matcher'?"),
        ("3: x", "Unknown configuration key '3'"),
        ("matcher: [a]", "matcher is ['a']; expected a mapping with a name"),
        ("sampler: {num_inference_steps: {a: 1}}", "expected an integer."),
    ],
)
def test_bad_files(tmp_path, text, expected):
    message = refusal(write(tmp_path, "mine.yaml", text))
    assert expected in message
    assert "\n" not in message


def test_bad_file_names(tmp_path):
    assert "Did you mean 'presets/paper'?" in refusal("presets/papr")
    assert "it is a folder" in refusal(tmp_path)
    assert "does not end in .yaml" in refusal(write(tmp_path, "notes.txt", "a: 1"))
    assert "neither a file nor a shipped" in refusal(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\x00\xff\xfe")
    assert "is not valid YAML" in refusal(tmp_path / "binary.yaml")


@pytest.mark.parametrize("source", [3, [3], {"matcher": 3}, {1: 2}])
def test_bad_objects(source):
    refusal(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"seed": object()}, "seed cannot stand in a YAML file"),
        ({"sampler": {(1, 2): 3}}, "cannot stand in a YAML file"),
        ({"prompts": {"a", "b"}}, "prompts cannot stand in a YAML file"),
    ],
)
def test_objects_that_yaml_cannot_hold(source, expected):
    assert expected in refusal(source)


def test_the_cache_is_left_out_by_a_word_that_yaml_does_not_take_for_a_switch():
    for word in ("none", "off", "'off'", "false"):
        assert load_config(None, [f"cache.where={word}"]).cache.where == "none"
    assert "cache.where is 'of'" in refusal(None, "cache.where=of")


def test_a_hash_in_an_override_begins_no_comment():
    assert load_config(None, ["concept.path=/my pictures/a #1"]).concept.path == "/my pictures/a #1"
    assert load_config(None, ["prompts=['a #1 {}']"]).prompts == ["a #1 {}"]


def test_an_empty_file_is_the_default(tmp_path):
    assert to_plain(load_config(write(tmp_path, "e.yaml", ""))) == to_plain(load_config())


# ------------------------------------------------------------------ paths


def test_resources():
    assert (resolve_path("package:framework.toyworld/render.py")).is_file()
    assert config_file("models/sd1") == config_file("models/sd1.yaml")
    for bad in ("package:no_such_package/x", "package:/x", "  "):
        with pytest.raises(UserError):
            resolve_path(bad)
