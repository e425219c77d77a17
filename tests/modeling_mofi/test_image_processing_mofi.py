"""The image processor: the release's transform, checked against a reference of its own, for images of every kind."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from modeling_mofi import MofiImageProcessor


MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def noise(width, height, *, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def release_transform(pixels, *, size):
    """The release's transform in plain NumPy: to [0, 1], bilinear at half-pixel centers, center crop, normalize."""
    height, width, _ = pixels.shape
    long_edge = int(size * max(height, width) / min(height, width))
    new_height, new_width = (size, long_edge) if height <= width else (long_edge, size)
    rows, columns = sample_points(height, new_height), sample_points(width, new_width)
    image = pixels / 255.0
    image = sum(weight[:, None, None] * image[index] for index, weight in rows)
    image = sum(weight[None, :, None] * image[:, index] for index, weight in columns)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    image = image[top : top + size, left : left + size]
    return ((image - MEAN) / STD).transpose(2, 0, 1)


def sample_points(length, new_length):
    """The two neighbors of each new pixel's center and their weights; no averaging when shrinking."""
    centers = np.clip((np.arange(new_length) + 0.5) * length / new_length - 0.5, 0, None)
    lower = np.floor(centers).astype(int)
    upper = np.minimum(lower + 1, length - 1)
    return [(lower, 1 - (centers - lower)), (upper, centers - lower)]


@pytest.mark.parametrize(("width", "height"), [(640, 427), (427, 640), (100, 224), (224, 224), (37, 31)])
def test_transform_equals_the_releases(width, height):
    pixels = noise(width, height)
    got = MofiImageProcessor()(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    # torch computes sample points in single precision; one 8-bit level is 0.015 here.
    np.testing.assert_allclose(got, release_transform(pixels, size=224), rtol=0, atol=3e-4)


def test_antialias_averages_when_shrinking():
    checkers = Image.fromarray(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8))
    settings = {"size": {"height": 8, "width": 8}, "do_center_crop": False, "do_normalize": False}
    smooth = MofiImageProcessor(antialias=True, **settings)(checkers, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(smooth, torch.full((1, 3, 8, 8), 0.5), atol=0.05, rtol=0)


def plain(image):
    """Pixels `[3, 8, 8]` in [0, 255], without resizing."""
    processor = MofiImageProcessor(do_resize=False, do_normalize=False, do_rescale=False, crop_size=8)
    return processor(image, return_tensors="np")["pixel_values"][0]


GRAY = np.full((8, 8), 100, dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GRAY),
        Image.merge("LA", [Image.fromarray(GRAY), Image.new("L", (8, 8), 255)]),
        Image.fromarray(GRAY).convert("RGB").convert("P"),
        Image.fromarray(GRAY).convert("RGB"),
        Image.fromarray(GRAY).convert("RGBA"),
        Image.fromarray(np.full((8, 8), 100 * 257, dtype=np.uint16)),
        Image.fromarray(np.full((8, 8), 100 * 257, dtype=np.int32)),
        Image.fromarray(np.full((8, 8), 100, dtype=np.int32)),
        Image.fromarray(np.full((8, 8), 100, dtype=np.float32)),
        Image.fromarray(np.full((8, 8), 100 / 255, dtype=np.float32)),
        Image.fromarray(GRAY).convert("YCbCr"),
        Image.merge("CMYK", [Image.new("L", (8, 8), value) for value in (155, 155, 155, 0)]),
    ],
    ids=["L", "LA", "P", "RGB", "RGBA", "I;16", "I-16bit", "I-8bit", "F-255", "F-1", "YCbCr", "CMYK"],
)
def test_same_gray_comes_out_of_every_mode(image):
    np.testing.assert_allclose(plain(image), np.full((3, 8, 8), 100.0), atol=3)


def test_black_and_white_image_becomes_0_and_255():
    pixels = plain(Image.fromarray(np.eye(8, dtype=bool)))
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.eye(8) * 255, (3, 8, 8)))


def test_dark_16_bit_image_stays_dark():
    assert plain(Image.fromarray(np.full((8, 8), 200, dtype=np.uint16))).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_laid_on_white(mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert("RGBA" if mode == "P" else mode)
    if mode == "P":
        image = Image.new("P", (8, 8), 3)
        image.info["transparency"] = 3
    np.testing.assert_array_equal(plain(image), np.full((3, 8, 8), 255.0))


def test_photograph_is_turned_upright():
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise.
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    Image.fromarray(pixels).save(content, "PNG", exif=exif)
    upright = plain(Image.open(content))
    assert (upright[:, :4].mean(), upright[:, 4:].mean()) == (255, 0)


@pytest.mark.parametrize("kind", ["numpy last", "numpy first", "torch first", "numpy gray"])
def test_arrays_give_what_the_image_gives(kind):
    pixels = noise(40, 30)
    if kind == "numpy gray":
        pixels = np.repeat(pixels[:, :, :1], 3, axis=2)
    given = {
        "numpy last": pixels,
        "numpy first": pixels.transpose(2, 0, 1),
        "torch first": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        "numpy gray": pixels[:, :, :1],
    }[kind]
    processor = MofiImageProcessor()
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processor(given, return_tensors="pt")["pixel_values"], expected)


def test_batch_of_unequal_images_is_stacked_and_small_ones_are_padded():
    processor = MofiImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 12, "width": 12})
    batch = [Image.fromarray(noise(9, 9)), Image.fromarray(noise(30, 10)), Image.fromarray(noise(1, 50))]
    assert processor(batch, return_tensors="pt")["pixel_values"].shape == (3, 3, 12, 12)


def test_unknown_resampling_is_refused():
    with pytest.raises(ValueError, match=r"resample is 0; MofiImageProcessor knows 2 \(bilinear\) and 3 \(bicubic\)"):
        MofiImageProcessor(resample=0)(Image.new("RGB", (8, 8)))


def test_size_without_a_length_is_refused():
    with pytest.raises(ValueError, match="size"):
        MofiImageProcessor(size={"longest_edge": 8})(Image.new("RGB", (8, 8)))


def test_settings_survive_saving(tmp_path):
    processor = MofiImageProcessor(size={"height": 48, "width": 40}, do_center_crop=False, antialias=True)
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    image = Image.fromarray(noise(60, 50))
    assert type(loaded) is MofiImageProcessor
    torch.testing.assert_close(
        *(kind(image, return_tensors="pt")["pixel_values"] for kind in (loaded, processor)), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_of_four_channels_are_laid_on_white(dtype):
    array = noise(20, 16, channels=4)
    expected = MofiImageProcessor()(Image.fromarray(array), return_tensors="pt").pixel_values
    for image in (array.astype(dtype), array.astype(dtype).transpose(2, 0, 1)):
        laid = MofiImageProcessor()(image, return_tensors="pt").pixel_values
        torch.testing.assert_close(laid, expected, atol=0.02, rtol=0)  # Pillow rounds to whole levels.
    scaled = MofiImageProcessor(do_rescale=False)(array.astype(np.float32) / 255, return_tensors="pt").pixel_values
    torch.testing.assert_close(scaled, expected, atol=0.02, rtol=0)


def test_four_channels_with_four_means_stay_four():
    settings = {"image_mean": [0.0] * 4, "image_std": [1.0] * 4, "input_data_format": "channels_last"}
    pixels = MofiImageProcessor()(noise(20, 16, channels=4), **settings, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 4, 224, 224)
