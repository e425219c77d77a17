import io
import resource
import threading
import time

import numpy as np
import pytest
from PIL import Image
from tiny_build import BAD_IMAGES, NOISE, bomb_header, encode

from data_scripts.images.decode_images import decode_images, decode_publishable
from modeling_mofi.data import images
from modeling_mofi.data.images import UnreadableImage


@pytest.mark.parametrize("reason", BAD_IMAGES)
def test_bad_images_are_dropped_with_a_reason(reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode_publishable(BAD_IMAGES[reason], image_size=32)


def test_the_image_after_a_bad_one_is_read():
    good = encode(NOISE, "PNG")
    missing = UnreadableImage("image file missing", "a.png")
    batch = decode_images({"image": [*BAD_IMAGES.values(), good, missing]}, image_size=512)
    assert batch["drop_reason"] == [*BAD_IMAGES, None, "image file missing"]
    assert batch["image"][-2] == {"bytes": good, "path": None}
    errors = dict(zip(batch["drop_reason"], batch["error"], strict=True))
    assert errors.pop("truncated image").startswith("OSError: image file is truncated")
    assert errors.pop("too many pixels").startswith("DecompressionBombError: Image size (2500000000 pixels)")
    assert errors.pop("corrupt image").startswith("OSError: broken data stream")
    assert errors == {
        "empty image": "",
        "markup instead of an image": "b'\\n<!DOCTYPE html><html>404</html>'",
        "unknown image format": "begins with b'\\x00\\x01 no image at a'",
        "image too small": "1 x 1 pixels",
        "extreme aspect ratio": "30000 x 1 pixels",
        None: None,
        "image file missing": "a.png",
    }


@pytest.mark.parametrize("error", [ValueError, KeyError, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_image_that_the_processor_cannot_take_costs_itself(error, num_threads):
    def prepare(image):
        if image.width == 9:
            raise error("odd")
        return image.size

    sizes = [(8, 8), (9, 9), (10, 10)]
    batch = {"image": [encode(Image.new("RGB", size), "PNG") for size in sizes]}
    batch = decode_images(batch, image_size=16, prepare=prepare, num_threads=num_threads)
    assert batch["pixels"] == [(8, 8), None, (10, 10)]
    assert batch["drop_reason"] == [None, "image cannot be prepared", None]
    assert batch["error"][1].startswith(error.__name__)


# The second is below the bound of Pillow, which is twice ours.
@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 9_000)])
def test_a_bomb_is_refused_from_its_header(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode_publishable(bomb_header(*size), image_size=32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


GREY16 = Image.fromarray(np.full((20, 20), 128 << 8, dtype=np.uint16))
HALF_RED = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
PALETTE = Image.new("P", (20, 20), 0)
PALETTE.putpalette([10, 200, 30] * 256)
COLOURS = [
    ("16 bits", encode(GREY16, "PNG"), (128, 128, 128)),
    ("transparent", encode(HALF_RED, "PNG"), (255, 255, 255)),
    ("palette", encode(PALETTE, "PNG"), (10, 200, 30)),
    ("grey", encode(Image.new("L", (20, 20), 77), "PNG"), (77, 77, 77)),
    ("grey and alpha", encode(Image.new("LA", (20, 20), (77, 255)), "PNG"), (77, 77, 77)),
    ("CMYK", encode(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
    ("one bit", encode(Image.new("1", (20, 20), 1), "PNG"), (255, 255, 255)),
]


@pytest.mark.parametrize(("data", "colour"), [row[1:] for row in COLOURS], ids=[row[0] for row in COLOURS])
def test_every_mode_becomes_rgb(data, colour):
    pixels, published = decode_publishable(data, image_size=32)
    again = Image.open(io.BytesIO(published))
    assert pixels.mode == again.mode == "RGB"
    assert np.abs(np.array(pixels.getpixel((5, 5))) - colour).max() <= 3
    assert np.abs(np.array(again.getpixel((5, 5))) - colour).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    pixels, published = decode_publishable(data, image_size=32)
    assert pixels.getpixel((5, 5))[0] > 240
    assert getattr(Image.open(io.BytesIO(published)), "n_frames", 1) == 1


def test_the_exif_orientation_is_applied_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    pixels, published = decode_publishable(data, image_size=64)
    again = Image.open(io.BytesIO(published))
    assert pixels.size == again.size == (20, 40)
    assert again.getexif().get(0x0112, 1) == 1


def test_broken_exif_does_not_cost_the_image():
    data = encode(NOISE, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode_publishable(data, image_size=512)[0].size == NOISE.size


def test_bytes_of_a_plain_image_are_kept():
    data = encode(NOISE, "JPEG")
    assert decode_publishable(data, image_size=64)[1] is data


def test_a_large_jpeg_is_shrunk_and_looks_the_same():
    gradient = np.linspace(0, 255, 640, dtype=np.uint8)[None, :, None].repeat(480, 0).repeat(3, 2)
    pixels, published = decode_publishable(encode(Image.fromarray(gradient), "JPEG"), image_size=60)
    expected = np.asarray(Image.fromarray(gradient).resize((80, 60), Image.Resampling.BICUBIC), dtype=int)
    assert pixels.size == Image.open(io.BytesIO(published)).size == (80, 60)
    assert np.abs(np.asarray(pixels, dtype=int) - expected).mean() < 2


def test_threads_change_nothing():
    images = [*BAD_IMAGES.values(), encode(NOISE, "PNG")]
    alone = decode_images({"image": list(images)}, image_size=32)
    together = decode_images({"image": list(images)}, image_size=32, num_threads=4)
    assert alone["image"] == together["image"]
    assert alone["drop_reason"] == together["drop_reason"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("memory", "most"), [(1, 1), (2 * 60 * 40 * 10, 2), (2**30, 4)])
def test_threads_decode_together_what_the_memory_holds(memory, most, monkeypatch):
    decoding, seen, lock = set(), [], threading.Lock()

    def slow(image, to_rgb=images.to_rgb):
        with lock:
            decoding.add(id(image))
            seen.append(len(decoding))
        time.sleep(0.05)
        with lock:
            decoding.remove(id(image))
        return to_rgb(image)

    monkeypatch.setattr(images, "to_rgb", slow)
    data = encode(Image.new("RGB", (60, 40), "red"), "PNG")
    batch = decode_images({"image": [data] * 12}, image_size=64, num_threads=4, memory=memory)
    assert batch["drop_reason"] == [None] * 12
    assert max(seen) == most
