"""Odd images of every kind through the opener, and through each of those that use it."""

import io
import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from data_scripts.images.decode_images import decode_images
from evaluation.labeled_images import read_hashed
from modeling_mofi import MofiImageProcessor
from modeling_mofi.data.collator import PositionDataset
from modeling_mofi.data.images import FORMATS, ImageBounds, UnreadableImage, decode_image, read_file, read_image
from modeling_mofi.search.image_gallery import ImageGallery


NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
PICTURE = Image.fromarray(NOISE)
ORIENTATION, X_RESOLUTION = 0x0112, 0x011A


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, content, *, checksum=None):
    """A PNG chunk."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks):
    """A PNG of noise with more chunks after its header."""
    data = encode(PICTURE, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def exif_with(tag, kind, value, *, orientation=6):
    """A turned EXIF block of two tags, one of them of any type."""
    entries = struct.pack(">HHII", ORIENTATION, 3, 1, orientation << 16) + struct.pack(">HHI4s", tag, kind, 4, value)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)


def jpeg_without_value():
    """A turned JPEG whose resolution is an empty text, without a JFIF header that would say it as well."""
    entries = struct.pack(">HHIIHHIIHHII", ORIENTATION, 3, 1, 6 << 16, X_RESOLUTION, 2, 1, 0, 0x0128, 3, 1, 2 << 16)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 3) + entries + bytes(4)
    return encode(PICTURE, "JPEG", exif=exif).replace(b"JFIF\0", b"none\0")


def avif_with_bad_exif():
    """An AVIF whose EXIF block is damaged in place."""
    exif = Image.Exif()
    exif[0x010E] = "a picture"
    data = encode(PICTURE, "AVIF", exif=exif.tobytes())
    start = max(data.find(b"MM\0*"), data.find(b"II*\0"))
    return data[:start] + b"nonsense" + data[start + 8 :]


def cut_gif():
    """A GIF whose second frame is cut short."""
    frames = [Image.fromarray(np.roll(NOISE, shift, axis=0)).convert("P") for shift in (0, 7)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    return data[: data.rindex(b"\x2c") + 4]


def color_key_png():
    """Half of the pixels have the color that stands for transparent."""
    image = Image.new("RGB", (20, 20), (9, 9, 9))
    image.paste((200, 0, 0), (0, 0, 10, 20))
    return encode(image, "PNG", transparency=(9, 9, 9))


def thin_png(width, height):
    return encode(Image.new("1", (width, height)), "PNG")


def as_mode(mode):
    return PICTURE.convert("L").convert(mode) if mode in ("I", "F", "I;16") else PICTURE.convert(mode)


def lab():
    return ImageCms.applyTransform(
        PICTURE, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    )


KEPT = {
    "gif_cut_in_second_frame": (cut_gif(), (60, 40)),
    "exif_of_a_wrong_type": (encode(PICTURE, "JPEG", exif=exif_with(X_RESOLUTION, 2, b"abc\0")), (40, 60)),
    "exif_that_is_no_tiff": (encode(PICTURE, "JPEG", exif=b"Exif\0\0nonsense" + bytes(40)), (60, 40)),
    "exif_that_is_short": (encode(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 9), (60, 40)),
    "exif_without_a_value": (jpeg_without_value(), (40, 60)),
    "avif_with_bad_exif": (avif_with_bad_exif(), (60, 40)),
    "png_with_a_large_text": (png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000)))), (60, 40)),
    "png_with_bad_exif": (png_with(chunk(b"eXIf", b"nonsense")), (60, 40)),
    "png_with_a_wrong_checksum": (png_with(chunk(b"tEXt", b"a\0b", checksum=1)), (60, 40)),
    "png_with_bad_icc": (png_with(chunk(b"iCCP", b"x\0\0" + b"no zlib")), (60, 40)),
    "jpeg_with_bad_icc": (encode(PICTURE, "JPEG", icc_profile=b"nonsense"), (60, 40)),
    "mpo": (encode(PICTURE, "MPO", save_all=True, append_images=[PICTURE]), (60, 40)),
    "apng": (encode(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(90)]), (60, 40)),
    "tiff_turned": (encode(PICTURE, "TIFF", tiffinfo={ORIENTATION: 6}), (40, 60)),
    "tiff_cmyk": (encode(as_mode("CMYK"), "TIFF"), (60, 40)),
    "tiff_lab": (encode(lab(), "TIFF"), (60, 40)),
    "tiff_float": (encode(as_mode("F"), "TIFF"), (60, 40)),
    "png_16_bit": (encode(as_mode("I;16"), "PNG"), (60, 40)),
    "png_two_levels": (encode(as_mode("1"), "PNG"), (60, 40)),
    "color_key": (color_key_png(), (20, 20)),
    "webp_alpha": (encode(as_mode("RGBA"), "WEBP"), (60, 40)),
    "avif": (encode(PICTURE, "AVIF"), (60, 40)),
    "bmp": (encode(PICTURE, "BMP"), (60, 40)),
}
UNOPENED_BY_PILLOW = {
    "exif_without_a_value",
    "avif_with_bad_exif",
    "png_with_a_large_text",
    "png_with_a_wrong_checksum",
}
REFUSED = {
    "empty": (b"", "empty image"),
    "page": (b"  <!DOCTYPE html><html>", "markup instead of an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "unknown image format"),
    "pdf": (b"%PDF-1.4\n", "unknown image format"),
    "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(60), "unknown image format"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "unknown image format|corrupt image"),
    "thin": (thin_png(20_000, 1), "extreme aspect ratio"),
    "bomb": (thin_png(12_000, 12_000), "too many pixels"),
    "truncated": (encode(PICTURE, "JPEG")[:-400], "truncated image"),
}


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
            return __import__("torch").ones(len(images), 1)

    for name in ("odd.png", "plain.png"):
        (folder / name).write_bytes(data if name == "odd.png" else encode(PICTURE, "PNG"))
    return len(ImageGallery.from_folder(folder, Encoder())) == 2


@pytest.mark.parametrize("name", [*KEPT, *REFUSED])
def test_every_user_of_the_opener_agrees(name, tmp_path):
    data, _ = KEPT[name] if name in KEPT else REFUSED[name]
    users = through_build(data), through_training(data), through_evaluation(data), through_gallery(data, tmp_path)
    assert users == (name in KEPT,) * 4


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
