"""Several concepts in one pipeline: words, masks, injections kept apart, configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_concept, tiny_parts, tiny_sampler, tiny_sd
from tiny_personal import make_concept

from framework.backbones.choose import backbone_of
from framework.composer import compose
from framework.concepts.text import fill_several, named_positions
from framework.config.page import load_config
from framework.errors import UserError
from framework.sampling.network import winners
from framework.sampling.sampler import Sampler
from personalizers.dreambooth_lora import DreamBoothLora

DOG = tiny_concept("toy", "dog")
CAT = replace(make_concept(), name="my-cat", placeholder="red", class_name="cat")


def sampler(pipe, concepts=(DOG, CAT), injector=None, **parts):
    from framework.config.sampler import SamplerConfig

    each = [tiny_parts(pipe, injector, **parts) for _ in concepts]
    return Sampler(pipe, concepts, each, SamplerConfig(num_inference_steps=3))


def latents(drawn):
    return drawn.images


def test_prompts_name_concepts_in_several_ways():
    concepts = (DOG, CAT)
    both = "a toy dog and a red cat"
    for prompt in (
        "a {0} and a {1}",
        "a {toy-dog} and a {my-cat}",
        "a {toy} and a {red}",
        "a {dog} and a {cat}",
        "a {} and a {1}",
        "a {toy} and a red cat",
        both,
    ):
        assert fill_several(prompt, concepts) == both
    with pytest.raises(UserError, match="Did you mean 'my-cat'"):
        fill_several("a {my-cut}", concepts)
    with pytest.raises(UserError, match="mentions none"):
        fill_several("a photo", concepts)
    twins = (replace(DOG, name="a", placeholder="sks"), replace(CAT, placeholder="sks"))
    with pytest.raises(UserError, match="Unknown concept"):
        fill_several("a {sks}", twins)
    assert fill_several("a {a}", twins) == "a sks dog"


def test_tokens_of_each_concept(sd1):
    found = named_positions(backbone_of(sd1), "a red cat on grass, a toy dog, red cat", (DOG, CAT))
    alone = named_positions(backbone_of(sd1), "a toy dog", (DOG, CAT))
    assert found == [[8, 9], [2, 3, 11, 12]]
    assert alone == [[2, 3], []]
    twins = (replace(DOG, placeholder="toy"), replace(CAT, placeholder="toy"))
    assert named_positions(backbone_of(sd1), "a toy cat and toy dog", twins)[1] == [2, 3]
    plain = (replace(DOG, placeholder=""), replace(CAT, class_name="dog"))
    assert named_positions(backbone_of(sd1), "a red dog on a dog", plain) == [[6], [2, 3]]
    with pytest.raises(UserError, match="is not in"):
        named_positions(backbone_of(sd1), "a mug", (DOG, CAT))


def test_one_concept_wins_each_cell():
    masks = torch.tensor([[[[0.9, 0.2]], [[0.9, 0.9]]], [[[0.1, 0.6]], [[1.0, 1.0]]]])
    named = torch.tensor([[True, True], [True, False]])
    won = winners(masks, named)
    assert won.sum(dim=0).eq(1).all()
    assert won[:, 0, 0].tolist() == [[1, 0], [0, 1]]
    assert won[0, 1].eq(1).all()  # the second target does not name the second concept
    assert winners(torch.zeros(2, 1, 1, 1), torch.ones(2, 1, dtype=torch.bool)).eq(0.5).all()


def test_one_of_several_is_drawn_as_alone(sd1):
    """What a target names decides; a concept it does not name leaves no trace."""
    alone = tiny_sampler(sd1, DOG)("a {} on grass", seed=3, output_type="latent").images
    plain = tiny_sampler(sd1, DOG, injector="none")("a {} on grass", seed=3, output_type="latent")
    both = sampler(sd1)
    named = both(["a {0} on grass", "a {0} and a {1}"], seed=[3, 3], output_type="latent").images
    assert not torch.allclose(alone, plain.images, atol=1e-3)
    torch.testing.assert_close(named[:1], alone, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(named[:1], named[1:], atol=1e-3)


def test_each_injects_from_its_own_reference(sd1):
    prompt = "a {0} and a {1}"
    drawn = sampler(sd1)(prompt, seed=0, output_type="latent").images
    other = replace(CAT, images=(CAT.images[1],))
    changed = sampler(sd1, (DOG, other))(prompt, seed=0, output_type="latent").images
    assert not torch.allclose(drawn, changed, atol=1e-4)
    swapped = sampler(sd1, (CAT, DOG))("a {1} and a {0}", seed=0, output_type="latent").images
    torch.testing.assert_close(drawn, swapped, atol=2e-4, rtol=1e-3)


def test_the_baseline_of_several_is_the_stock_pipeline(sd1):
    drawn = sampler(sd1, injector="none")("a {0} and a {1}", seed=1, output_type="latent").images
    filled = "a toy dog and a red cat"
    alone = tiny_sampler(sd1, DOG, injector="none")(filled, seed=1, output_type="latent").images
    torch.testing.assert_close(drawn, alone)


def test_the_pipeline_is_restored_and_a_trace_is_kept(sd1):
    before = {name: type(layer.processor) for name, layer in processors(sd1)}
    result = sampler(sd1)("a {0} and a {1}", seed=0, output_type="latent", return_trace=True)
    assert [step.matched for step in result.trace] == [False, True, True]
    assert {name: type(layer.processor) for name, layer in processors(sd1)} == before

    def fail(*args):
        raise RuntimeError("inside")

    several = sampler(sd1)
    several.subjects[1].parts.injector.attend = fail
    with pytest.raises(RuntimeError, match="inside"):
        several("a {0} and a {1}", seed=0)
    assert {name: type(layer.processor) for name, layer in processors(sd1)} == before


def processors(pipe):
    named = pipe.unet.named_modules()
    return [(name, layer) for name, layer in named if hasattr(layer, "processor")]


def test_what_does_not_go_together_is_refused(sd1):
    with pytest.raises(UserError, match="the name 'toy-dog'"):
        sampler(sd1, (DOG, DOG))
    with pytest.raises(UserError, match="the phrase 'toy dog'"):
        sampler(sd1, (DOG, replace(DOG, name="other")))
    from framework.guidance.semantic_matching import SemanticMatching

    with pytest.raises(UserError, match="guidance=none"):
        sampler(sd1, guidance=SemanticMatching(start_step=1))


def test_from_a_configuration_with_weights_of_two_words(tmp_path):
    pipe = tiny_sd(sample_size=16)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    entries = []
    for name, noun in (("mug", "mug"), ("ducky", "duck")):
        folder = tmp_path / name
        folder.mkdir()
        make_concept().images[len(entries)].save(folder / "0.png")
        weights = tmp_path / f"{name}.safetensors"
        save_file({f"<{name}>": torch.randn(2, 32, generator=generator)}, weights)
        entries.append({"path": str(folder), "class_name": noun, "weights": str(weights)})
    options = ["sampler.num_inference_steps=2", "injector.start_step=1", "mask.resolution=4"]
    options += ["extractor.pca=8"]
    several = compose({"concepts": entries}, pipe=pipe, overrides=options)
    assert [concept.phrase for concept in several.concepts] == ["<mug> mug", "<ducky> duck"]
    assert several.fill("a {mug} on a {ducky}") == "a <mug> mug on a <ducky> duck"
    picture = np.asarray(several("a {mug} and a {ducky} on grass", seed=0).images[0])
    apart = np.asarray(several("a {mug} on grass", seed=0).images[0])
    assert picture.shape == apart.shape and not np.array_equal(picture, apart)
    with pytest.raises(UserError, match="both concept and concepts"):
        load_config({"concepts": entries}, ["concept.name=x"])
    with pytest.raises(UserError, match="Did you mean 'weights'"):
        load_config({"concepts": [{"weight": "x"}]})
    with pytest.raises(UserError, match="list of mappings"):
        load_config({"concepts": ["x"]})


def entry(tmp_path, name, noun, weights, **more):
    """A concept's section, with a picture in a folder of its own."""
    folder = tmp_path / name
    folder.mkdir()
    make_concept().images[0].save(folder / "0.png")
    return {"path": str(folder), "class_name": noun, "weights": str(weights)} | more


def test_two_loras_add_up_and_a_word_stands_beside_them(tmp_path):
    pipe = tiny_sd(sample_size=16)
    base = pipe.unet.state_dict()
    entries, updates = [], []
    for seed, noun in enumerate(("duck", "dog")):
        personalizer = DreamBoothLora(
            steps=1, batch_size=1, learning_rate=0.1, resolution=64, prior=False, logger="none"
        )
        concept = make_concept(placeholder="toy", class_name=noun)
        path = personalizer.train(pipe, concept, tmp_path / f"{noun}-run", seed=seed)
        undo = personalizer.load(pipe, path, concept)
        updates.append({k: v - base[k] for k, v in pipe.unet.state_dict().items()})
        undo()
        entries.append(entry(tmp_path, noun, noun, path, placeholder="toy"))
    word = tmp_path / "mug.safetensors"
    save_file({"<mug>": torch.randn(1, 32)}, word)
    entries.insert(1, entry(tmp_path, "mug", "mug", word))
    several = compose({"concepts": entries, "extractor": {"pca": 8}}, pipe=pipe)
    assert several.fill("a {duck}, a {mug}, a {dog}") == "a toy duck, a <mug> mug, a toy dog"
    for key, value in pipe.unet.state_dict().items():
        expected = base[key] + updates[0][key] + updates[1][key]
        assert torch.allclose(value, expected, atol=1e-5), key
    assert all(any(change.any() for change in each.values()) for each in updates)


def test_weights_that_replace_come_first_and_alone(tmp_path):
    pipe, other = tiny_sd(sample_size=16), tiny_sd(sample_size=16)
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.add_(0.1)
    other.unet.save_pretrained(tmp_path / "tuned" / "unet")
    word = tmp_path / "mug.safetensors"
    save_file({"<mug>": torch.randn(1, 32)}, word)
    entries = [
        entry(tmp_path, "mug", "mug", word),
        entry(tmp_path, "duck", "duck", tmp_path / "tuned", placeholder="toy"),
    ]
    compose({"concepts": entries}, pipe=pipe)
    assert torch.equal(pipe.unet.conv_in.weight, other.unet.conv_in.weight)
    assert "<mug>" in pipe.tokenizer.get_vocab()
    entries.append(entry(tmp_path, "dog", "dog", tmp_path / "tuned", placeholder="toy"))
    with pytest.raises(UserError, match="'duck' and 'dog' both bring weights in place"):
        compose({"concepts": entries}, pipe=tiny_sd(sample_size=16))
