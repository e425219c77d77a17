"""Odd images of every kind through the opener, and through each of those that use it."""

import io
import os
import random
import struct

import numpy as np
import pytest
import torch
from odd_images import KEPT, PICTURE, REFUSED, UNOPENED_BY_PILLOW, X_RESOLUTION, as_mode, encode, exif_with
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile
from tiny import make_tiny_config, make_tiny_processor

from data_scripts.images.decode_images import decode_images
from evaluation.labeled_images import read_hashed
from modeling_mofi import MofiImageProcessor, MofiModel
from modeling_mofi.data.collator import PositionDataset
from modeling_mofi.data.images import FORMATS, ImageBounds, UnreadableImage, decode_image, read_file, read_image
from modeling_mofi.search.encoder import MofiEncoder
from modeling_mofi.search.entity_index import EntityIndex
from modeling_mofi.search.image_gallery import ImageGallery


@pytest.mark.parametrize("name", KEPT)
def test_whole_pixels_are_read_whatever_the_metadata_hold(name):
    data, size = KEPT[name]
    image = read_image(data)
    assert (image.mode, image.size) == ("RGB", size)


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_in_a_few_words(name):
    data, reason = REFUSED[name]
    with pytest.raises(UnreadableImage, match=reason) as refused:
        read_image(data)
    assert len(str(refused.value)) < 40


def test_what_is_transparent_is_white():
    assert read_image(KEPT["color_key"][0]).getpixel((15, 5)) == (255, 255, 255)
    assert read_image(KEPT["color_key"][0]).getpixel((5, 5)) == (200, 0, 0)


def test_an_image_is_turned_by_its_orientation_alone():
    image = Image.new("RGB", (60, 40), "white")
    image.paste((255, 0, 0), (0, 0, 60, 10))
    turned = read_image(encode(image, "JPEG", quality=95, exif=exif_with(X_RESOLUTION, 2, b"abc\0")))
    assert turned.size == (40, 60) and turned.getpixel((36, 30))[1] < 60 and turned.getpixel((4, 30))[1] > 200


@pytest.mark.parametrize("error", [RuntimeError, struct.error, KeyError, SyntaxError, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("method", ["open", "load", "convert"])
def test_whatever_a_decoder_raises_becomes_one_exception(error, method, monkeypatch):
    def fail(*_, **__):
        raise error("Failed to decode")

    data = encode(as_mode("CMYK"), "TIFF")
    monkeypatch.setattr({"open": Image, "load": TiffImageFile, "convert": Image.Image}[method], method, fail)
    with pytest.raises(UnreadableImage, match="corrupt image"):
        read_image(data)


def test_only_listed_formats_are_opened():
    assert not {"EPS", "PS", "PDF", "WMF"} & set(FORMATS)


def test_bounds_are_those_that_are_given():
    data = encode(PICTURE, "PNG")
    for bounds, reason in (
        (ImageBounds(max_bytes=100), "image file too large"),
        (ImageBounds(max_pixels=2399), "too many pixels"),
        (ImageBounds(max_aspect_ratio=1.4), "extreme aspect ratio"),
        (ImageBounds(min_side=41), "image too small"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            read_image(data, bounds=bounds)
    assert read_image(data, bounds=ImageBounds(len(data), 2400, 1.5, 40)).size == (60, 40)


@pytest.fixture
def odd_paths(tmp_path):
    """Paths that are no image file, with the reason."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    return {
        str(tmp_path / "pipe.png"): "image path is no file",
        str(tmp_path / "loop.png"): "image path is a loop of links",
        str(tmp_path): "image file missing|image path is no file",
        str(tmp_path / "gone.png"): "image file missing",
        "x" * 300 + ".png": "image path too long",
        "data:image/png;base64,AAAA": "image is a data URI",
        "https://example.org/a.png": "image is a URL",
        "a\0.png": "image file missing",
        "/dev/zero": "image path is no file",
    }


@pytest.mark.timeout(30)
def test_odd_paths_are_refused_and_never_waited_for(odd_paths):
    for path, reason in odd_paths.items():
        with pytest.raises(UnreadableImage, match=reason):
            read_file(path)


def through_build(data):
    batch = decode_images({"image": [data]}, image_size=64)
    return batch["pixels"][0] is not None and batch["drop_reason"][0] is None


def through_training(data):
    rows = PositionDataset([{"image": {"bytes": data, "path": None}}, {"image": PICTURE}], min_side=None)
    return rows[0]["num_unreadable"] == 0


def through_evaluation(data):
    try:
        return read_hashed({"bytes": data, "path": None})[0].mode == "RGB"
    except UnreadableImage:
        return False


def through_gallery(data, folder):
    class Encoder:
        projection_dim, batch_size = 1, 4

        def encode_images(self, images):
            return torch.ones(len(images), 1)

    for name in ("odd.png", "plain.png"):
        (folder / name).write_bytes(data if name == "odd.png" else encode(PICTURE, "PNG"))
    return len(ImageGallery.from_folder(folder, Encoder())) == 2


@pytest.fixture(scope="module")
def index():
    torch.manual_seed(0)
    encoder = MofiEncoder(MofiModel(make_tiny_config()), make_tiny_processor())
    entities = {"entity_id": ["Q1", "Q2"], "name": ["a", "b"], "description": ["", ""]}
    return EntityIndex(torch.eye(2, 16), entities, encoder)


def through_index(data, folder, index):
    (folder / "query").write_bytes(data)
    try:
        return len(index.search(folder / "query", k=2)[0].entities) == 2
    except UnreadableImage:
        return False


@pytest.mark.parametrize("name", [*KEPT, *REFUSED])
def test_every_user_of_the_opener_agrees(name, tmp_path, index):
    data, _ = KEPT[name] if name in KEPT else REFUSED[name]
    users = through_build(data), through_training(data), through_evaluation(data), through_gallery(data, tmp_path)
    assert (*users, through_index(data, tmp_path, index)) == (name in KEPT,) * 5


@pytest.mark.parametrize("name", sorted(KEPT.keys() - UNOPENED_BY_PILLOW))
def test_the_image_processor_takes_what_pillow_opens(name):
    image = Image.open(io.BytesIO(KEPT[name][0]))
    pixels = MofiImageProcessor()(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224) and pixels.isfinite().all()


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_the_image_processor_resizes_only_what_its_crop_keeps(size):
    levels = np.linspace(0, 255, 20_000).astype(np.uint8)
    image = Image.fromarray(levels.reshape(size[::-1])).convert("RGB")
    pixels = MofiImageProcessor(do_normalize=False)(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.mean().item() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="sides may differ by a factor of 32"):
        MofiImageProcessor(do_center_crop=False)(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_mutated_files_are_read_or_refused(kind):
    data, generator = encode(PICTURE, kind), random.Random(kind)
    for _ in range(150):
        mutated = bytearray(data)
        for _ in range(generator.choice((1, 2, 8, 32))):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        try:
            assert decode_image(bytes(mutated[: generator.choice((None, generator.randrange(len(data))))])).pixels
        except UnreadableImage as error:
            assert len(str(error)) < 40


def test_text_of_a_png_is_kept_with_the_image_where_pillow_reads_it():
    info = PngInfo()
    info.add_text("Comment", "short")
    assert decode_image(encode(PICTURE, "PNG", pnginfo=info)).is_plain
