from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framework.concepts.images import load_image, load_images
from framework.errors import UserError


def picture(width=24, height=20):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def refused(folder):
    with pytest.raises(UserError) as caught:
        load_images(folder)
    return str(caught.value)


def test_sorted_rgb_and_exact(tmp_path):
    for name in ("b.png", "a.png", "c.png"):
        picture().save(tmp_path / name)
    loaded = load_images(tmp_path)
    assert [path.name for path, _ in loaded] == ["a.png", "b.png", "c.png"]
    for _, image in loaded:
        assert image.mode == "RGB"
        assert np.array_equal(np.array(image), np.array(picture()))


def test_hidden_and_side_files_and_folders_are_ignored(tmp_path):
    picture().save(tmp_path / "a.png")
    for name in (".DS_Store", "concept.yaml", "metadata.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / "more").mkdir()
    assert [path.name for path, _ in load_images(tmp_path)] == ["a.png"]


def test_orientation_tag_is_applied(tmp_path):
    image = picture(32, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    (_, loaded), *_ = load_images(tmp_path)
    assert loaded.size == (16, 32)
    assert np.array_equal(np.array(loaded), np.rot90(np.array(image), -1))


def test_transparency_is_put_on_white(tmp_path):
    array = np.zeros((16, 16, 4), dtype=np.uint8)
    array[:, :8] = (255, 0, 0, 255)
    array[:, 8:] = (0, 0, 255, 0)
    Image.fromarray(array).save(tmp_path / "rgba.png")
    Image.fromarray(array).convert("LA").save(tmp_path / "grey.png")
    Image.fromarray(array).quantize(4).save(tmp_path / "palette.png")
    plain = Image.fromarray(array[..., :3])
    plain.save(tmp_path / "keyed.png", transparency=(0, 0, 255))
    for path, image in load_images(tmp_path):
        pixels = np.array(image)
        assert pixels[0, 15].tolist() == [255, 255, 255], path.name
        if path.name != "grey.png":
            assert pixels[0, 0].tolist() == [255, 0, 0], path.name


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.bmp", "a.tiff", "a.ppm"])
def test_palette_and_other_formats(tmp_path, name):
    image = Image.new("RGB", (16, 16), (250, 128, 4))
    image.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB").save(tmp_path / name)
    loaded = load_image(tmp_path / name)
    assert loaded.mode == "RGB"
    assert np.abs(np.array(loaded).astype(int) - (250, 128, 4)).max() <= 8


def test_cmyk_one_bit_and_grey(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red = np.array(load_image(tmp_path / "cmyk.jpg"))[8, 8].astype(int)
    assert np.abs(red - (255, 0, 0)).max() < 12
    Image.new("1", (16, 16), 1).save(tmp_path / "bit.png")
    assert np.array(load_image(tmp_path / "bit.png")).min() == 255
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.png")
    assert np.array(load_image(tmp_path / "grey.png"))[0, 0].tolist() == [77, 77, 77]


def test_sixteen_bits_and_floats_keep_their_greys(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(16, 0)
    Image.fromarray(ramp).save(tmp_path / "wide.png")
    Image.fromarray((ramp / 65535.0).astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray((ramp / 257).astype(np.float32)).save(tmp_path / "float255.tiff")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "int.tiff")
    for _, image in load_images(tmp_path):
        assert np.abs(np.array(image)[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array(load_image(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


def test_missing_folder_file_and_empty_folder(tmp_path):
    assert "does not exist" in refused(tmp_path / "none")
    picture().save(tmp_path / "a.png")
    assert "is a file" in refused(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    assert "no image" in refused(tmp_path / "empty")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_truncated_image_is_named(tmp_path, suffix):
    picture(64, 64).save(tmp_path / f"good.{suffix}")
    data = (tmp_path / f"good.{suffix}").read_bytes()
    (tmp_path / f"half.{suffix}").write_bytes(data[: len(data) // 2])
    message = refused(tmp_path)
    assert f"half.{suffix}" in message
    assert "damaged" in message


def test_content_that_is_no_image_is_named(tmp_path):
    picture().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("this is text")
    assert "bad.png' is a damaged image" in refused(tmp_path)
    (tmp_path / "bad.png").unlink()
    (tmp_path / "none.jpg").write_bytes(b"")
    assert "none.jpg' is empty" in refused(tmp_path)


def test_small_image_is_named_with_its_size(tmp_path):
    picture(16, 16).save(tmp_path / "a.png")
    load_images(tmp_path)
    picture(15, 40).save(tmp_path / "b.png")
    assert "b.png' is 15 x 40 pixels" in refused(tmp_path)


def test_too_large_image_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    picture(64, 64).save(tmp_path / "a.png")
    assert "a.png' is too large" in refused(tmp_path)


def test_a_folder_in_a_folder_is_hinted_at(tmp_path, caplog):
    (tmp_path / "photos" / "mug").mkdir(parents=True)
    with pytest.raises(UserError, match="folder 'mug' in it"):
        load_images(tmp_path / "photos")
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "0.png")
    (tmp_path / "photos" / "Thumbs.db").write_bytes(b"x")
    assert len(load_images(tmp_path / "photos")) == 1
    assert "the folder 'mug' in it, which is not read" in caplog.text


def test_a_heic_picture_is_named_with_what_reads_it(tmp_path):
    (tmp_path / "0.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    with pytest.raises(UserError, match=r"0\.heic.*(pillow-heif|damaged)"):
        load_images(tmp_path)


def test_a_heic_picture_is_read_where_something_reads_it(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture(64, 48).save(tmp_path / "0.heic", quality=-1)
    ((_, image),) = load_images(tmp_path)
    assert (image.mode, image.size) == ("RGB", (64, 48))


CAPTIONS = {
    "0.txt": b"a photo of sks duck",
    "0.caption": b"a duck",
    "metadata.jsonl": b'{"file_name": "0.png", "text": "x"}\n',
    "0.npz": b"PK\x03\x04 cached latents",
    "dataset.toml": b"[general]",
    "clip.mp4": b"\x00\x00\x00\x18ftypmp42",
    "notes": b"# bought in May",
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_files_of_caption_based_trainers_are_passed_over_with_one_line(tmp_path, caplog, name):
    picture().save(tmp_path / "0.png")
    (tmp_path / name).write_bytes(CAPTIONS[name])
    (tmp_path / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    assert [path.name for path, _ in load_images(tmp_path)] == ["0.png"]
    (record,) = caplog.records
    assert name in record.getMessage()
    assert "Passed over 1 file" in record.getMessage()


def test_a_folder_of_captions_alone_has_no_picture(tmp_path):
    (tmp_path / "0.txt").write_text("a duck")
    assert "no image in it beside 0.txt" in refused(tmp_path)


def test_a_picture_without_an_ending_counts_and_a_mask_beside_one_does_not(tmp_path, caplog):
    picture().save(tmp_path / "0.png")
    (tmp_path / "1").write_bytes((tmp_path / "0.png").read_bytes())
    picture().save(tmp_path / "0-masklabel.png")
    assert [path.name for path, _ in load_images(tmp_path)] == ["0.png", "1"]
    assert "0-masklabel.png" in caplog.text


@pytest.mark.parametrize("name", ["0.jxl", "0.nef", "0.svg"])
def test_a_picture_of_a_kind_that_is_not_read_is_refused(tmp_path, name):
    picture().save(tmp_path / "1.png")
    (tmp_path / name).write_bytes(b"camera data")
    assert f"{name}' is not an image that can be read" in refused(tmp_path)


def test_what_is_no_plain_file_neither_hangs_nor_traces_back(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    cases = {
        tmp_path / "pipe.png": "pipe, socket or device",
        tmp_path / "folder.png": "is a folder",
        Path("/dev/zero"): "pipe, socket or device",
        Path("/proc/self/status"): "is empty",
        tmp_path / ("x" * 300): "too long",
        tmp_path / "gone.png": "does not exist",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            load_image(path)
    assert "pipe" in refused(tmp_path)
    assert "too long" in refused(tmp_path / ("x" * 300))
