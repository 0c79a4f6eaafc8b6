import json
import re
from dataclasses import replace

import pytest
from ablation_world import tiny_plan
from PIL import Image

from framework.cli.main import main
from framework.errors import UserError
from framework.experiments.batches import batches_of, share
from framework.experiments.cells import noise_seed
from framework.experiments.plan import load_plan


def test_cells_are_variant_times_concept_times_prompt_times_seed(world):
    plan = load_plan(tiny_plan(world))
    assert len(plan.cells) == 2 * 2 * 1 * 2
    assert len({cell.id for cell in plan.cells}) == len({cell.file for cell in plan.cells}) == 8
    assert plan.baseline == "plain"
    assert load_plan(tiny_plan(world)).identity == plan.identity


def test_variants_share_their_noise_and_nothing_else_does(world):
    seeds = {}
    for cell in load_plan(tiny_plan(world, noise="cell")).cells:
        seeds.setdefault(cell.pair, set()).add(cell.noise_seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds) == 4
    assert noise_seed("a", "b", 1) == noise_seed("a", "b", 1) < 2**63
    assert all(cell.noise_seed == cell.seed for cell in load_plan(tiny_plan(world)).cells)


def test_the_identity_is_what_a_picture_is_made_of(world, tmp_path):
    plan = load_plan(tiny_plan(world))
    same = [
        tiny_plan(world, name="other"),
        tiny_plan(world, protocols=["official"]),
        tiny_plan(world, run={"devices": 2}),
    ]
    assert all(load_plan(each).identity == plan.identity for each in same)
    other = [["sampler.guidance_scale=3"], ["seeds=[0]"], ["run.precision=bf16-mixed"]]
    assert all(load_plan(tiny_plan(world), each).identity != plan.identity for each in other)
    library = tmp_path / "library"
    (library / "blot").mkdir(parents=True)
    for name in ("0.png", "1.png"):
        Image.open(world / "library" / "blot" / name).save(library / "blot" / name)
    options = ["concepts=[blot]", f"concept.library={library}", "concept.class_name=mug"]
    before = load_plan(tiny_plan(world), options).identity
    Image.new("RGB", (64, 64)).save(library / "blot" / "1.png")
    assert load_plan(tiny_plan(world), options).identity != before


def test_an_injector_that_replaces_another_keeps_its_layers_and_steps(world):
    variants = {"ours": {}, "replaced": {"injector.name": "key_value_replace"}}
    plan = load_plan(tiny_plan(world, variants=variants, concepts=["blot"]))
    ours, replaced = (setting.config.injector for setting in plan.settings)
    assert ours["layers"] == replaced["layers"] and replaced["start_step"] == 1
    assert replaced["name"] == "key_value_replace"


def test_concepts_have_own_settings_and_prompt_lists(world):
    concepts = {
        "blot": {"prompts": "still", "reference": "1.png", "class_name": "cup"},
        "mine": {"path": str(world / "library" / "smear"), "prompts": ["a {}"]},
    }
    prompts = {"still": ["a photo of a {}"], "live": ["a {} in snow"]}
    plan = load_plan(
        tiny_plan(world, concepts=concepts, prompts=prompts), ["model.path=models/{concept}"]
    )
    first, last = plan.settings[0], plan.settings[-1]
    assert first.config.sampler.reference_index == 1 and first.subject.class_name == "cup"
    assert [cell.prompt for cell in last.cells] == ["a {}", "a {}"]
    assert last.config.model.path == "models/mine" and first.config.model.path == "models/blot"


AXES = ("num_inference_steps", "height", "width", "guidance_scale")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {"matcher.cycle_treshold": [0.1]}}, "Did you mean 'cycle_threshold'"),
        ({"vary": {"matchr.cycle_threshold": [0.1]}}, "Did you mean 'matcher.cycle_threshold'"),
        ({"vary": {"matcher": ["cycle_argmx"]}}, "Did you mean 'cycle_argmax'"),
        ({"vary": {"seeds": [1]}}, "no axis"),
        ({"vary": {"matcher.cycle_threshold": []}}, "empty"),
        ({"variants": {"a": {}, "b": {}}}, "'a' and 'b' are the same"),
        ({"variants": {}}, "empty"),
        ({"prompts": []}, "empty"),
        ({"prompts": None}, "empty"),
        ({"prompts": ["a photo"]}, "does not mention the concept"),
        ({"prompts": ["a {}", "a {}"]}, "twice"),
        ({"seeds": []}, "empty"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": ["x"]}, "integers"),
        ({"concepts": []}, "empty"),
        ({"concepts": ["blott"]}, "Did you mean 'blot'"),
        ({"concepts": {"blot": {"clas_name": "x"}}}, "Did you mean 'class_name'"),
        ({"concepts": {"blot": {"reference": "2.png"}}}, "Unknown reference of blot"),
        ({"baseline": "plane"}, "Did you mean 'plain'"),
        ({"protocols": ["oficial"]}, "Did you mean 'official'"),
        ({"vry": {}}, "Did you mean 'vary'"),
        ({"run": {"device": 1}}, "Did you mean 'devices'"),
        ({"run": {"precision": "8"}}, "precision"),
        ({"vary": {"sampler.reference_index": [0, 7]}}, "reference_index is 7"),
        ({"vary": {"personalizer.devices": [1, 2]}}, "over run.devices"),
        ({"noise": "white"}, "expected one of seed, cell"),
        ({"seeds": [2**64]}, "integers from 0"),
        ({"layout": "{variant}/{promt}.png"}, "{prompt}"),
        ({"layout": "../{variant}/{concept}/{prompt}-{seed}.png"}, "in the run folder"),
        ({"layout": "{concept}/{prompt}-{seed}.png"}, "written to one folder"),
        ({"layout": "{variant}/{concept}/{prompt}.png"}, "one path"),
        ({"plugins": ["no_such_module"]}, "no_such_module"),
        ({"vary": {f"sampler.{k}": list(range(1, 101)) for k in AXES}}, "200,000,000 pictures"),
        ({"seeds": list(range(10**6))}, "pictures"),
        ({"config": {"model.device": "cuda:1"}, "run": {"accelerator": "cpu"}}, "give one of"),
    ],
)
def test_what_is_refused(world, changes, message):
    plan = tiny_plan(world, **changes)
    if "config" in changes:
        plan["config"] = tiny_plan(world)["config"] | changes["config"]
    with pytest.raises(UserError, match=re.escape(message)):
        load_plan(plan)


def test_some_of_a_plan_s_concepts_and_other_prompts_from_the_command_line(world):
    concepts = {
        "blot": {"prompts": "still", "class_name": "cup"},
        "smear": {"prompts": "live", "class_name": "pet"},
    }
    plan = tiny_plan(
        world, concepts=concepts, prompts={"still": ["a {}"], "live": ["a {} in snow"]}
    )
    some = load_plan(plan, ["concepts=smear"])
    assert {each.subject.class_name for each in some.settings} == {"pet"}
    assert {cell.prompt for cell in some.cells} == {"a {} in snow"}
    other = load_plan(plan, ["concepts=[blot]", 'prompts=["a photo of a {}"]'])
    assert {cell.prompt for cell in other.cells} == {"a photo of a {}"}
    with pytest.raises(UserError, match="Did you mean 'smear'"):
        load_plan(plan, ["concepts=smeer"])


def test_a_base_lies_beside_the_plan(world, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: [default]\nsampler: {guidance_scale: 3.5}\n")
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(tiny_plan(world, base="mine")))
    assert load_plan(file).config.sampler.guidance_scale == 3.5
    with pytest.raises(UserError, match="nowhere"):
        load_plan(tiny_plan(world, base="nowhere"))
    with pytest.raises(UserError, match="base is 3"):
        load_plan(tiny_plan(world, base=3))


def test_a_concept_without_references_is_refused(world, tmp_path):
    (tmp_path / "empty").mkdir()
    plan = tiny_plan(world, concepts={"empty": {"path": str(tmp_path / "empty")}})
    with pytest.raises(UserError, match="no image"):
        load_plan(plan)


def test_the_command_words_a_missing_plan(capsys):
    assert main(["ablate", "componnts", "--dry-run"]) == 2
    assert "ablations/components" in capsys.readouterr().err


def test_batches_do_not_depend_on_ranks_and_ranks_share_everything(world):
    plan = load_plan(tiny_plan(world, seeds=[0, 1, 2]))
    batches = batches_of(plan.settings)
    assert [len(batch.cells) for batch in batches] == [2, 1] * 4
    for ranks in (1, 2, 3, 20):
        parts = [share(batches, rank, ranks) for rank in range(ranks)]
        assert sorted(b.id for part in parts for b in part) == sorted(b.id for b in batches)
    smaller = [len(share(batches, rank, 2)) for rank in range(2)]
    assert max(smaller) - min(smaller) <= 2


def test_run_settings_change_no_picture(world):
    plan = load_plan(tiny_plan(world))
    assert replace(plan, run=replace(plan.run, devices=4)).identity == plan.identity
