import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import flat, save_clip, save_identity
from transformers.modeling_outputs import BaseModelOutputWithPooling

from framework.config.evaluation import EvaluationConfig
from framework.errors import UserError
from framework.metrics.encoders import pooled
from framework.metrics.loading import load_encoders
from framework.metrics.preprocess import Preprocess


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {
        "clip": str(save_clip(root / "clip")),
        "identity": str(save_identity(root / "identity")),
    }


@pytest.fixture(scope="module")
def encoders(folders):
    return load_encoders(EvaluationConfig(**folders))


def picture(seed, size=(40, 40)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("name", ["identity", "clip_image"])
def test_images_become_unit_vectors_whatever_the_batch(encoders, name):
    encoder = getattr(encoders, name)
    images = [picture(0), picture(1, (50, 36)), picture(2)]
    together = encoder(images)
    alone = torch.cat([encoder([image]) for image in images])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert len(encoder([])) == 0


def test_texts_share_the_space_of_images(encoders):
    texts = encoders.clip_text(["a photo of a mug", "a dog on the grass", "a photo of a mug"])
    assert texts.shape[1] == encoders.clip_image([picture(0)]).shape[1]
    torch.testing.assert_close(texts[0], texts[2])
    assert not torch.allclose(texts[0], texts[1])
    torch.testing.assert_close(texts[1:2], encoders.clip_text(["a dog on the grass"]))


def test_preprocessing_is_what_the_folder_says(encoders):
    preprocess = encoders.clip_image.preprocess
    assert (preprocess.size, preprocess.mean) == (32, (0.5, 0.4, 0.3))
    tensor = preprocess([flat((255, 0, 51))])
    expected = torch.tensor([(1 - 0.5) / 0.2, (0 - 0.4) / 0.2, (0.2 - 0.3) / 0.2])
    torch.testing.assert_close(tensor, expected[None, :, None, None].expand(1, 3, 32, 32))


def test_half_normalisation_and_size_follow_the_configuration(folders):
    config = EvaluationConfig(**folders, identity_size=48, identity_normalisation="half")
    encoder = load_encoders(config).identity
    assert encoder.preprocess.size == 48
    assert float(encoder.preprocess([flat((0, 0, 0))]).max()) == -1.0
    assert encoder([picture(0)]).shape == (1, 16)


def test_crop_and_stretch_differ_only_off_the_square():
    wide = Image.new("RGB", (64, 32))
    wide.paste((255, 255, 255), (0, 0, 16, 32))
    options = {"size": 32, "mean": (0.0,) * 3, "std": (1.0,) * 3, "filter": "nearest"}
    assert float(Preprocess(**options)([wide]).sum()) == 0.0
    assert float(Preprocess(**options, stretch=True)([wide]).mean()) == 0.25


def test_both_return_types_of_transformers_are_read():
    tensor = torch.ones(2, 3)
    assert pooled(tensor) is tensor
    assert pooled(BaseModelOutputWithPooling(pooler_output=tensor)) is tensor


@pytest.mark.parametrize("key", ["clip", "identity"])
def test_missing_and_wrong_folders_are_named(folders, key, tmp_path):
    with pytest.raises(UserError, match=f"evaluation.{key} '.*nowhere' does not exist"):
        load_encoders(EvaluationConfig(**(folders | {key: str(tmp_path / "nowhere")})))
    with pytest.raises(UserError, match=f"evaluation.{key} .* cannot be loaded"):
        load_encoders(EvaluationConfig(**(folders | {key: str(tmp_path)})))
