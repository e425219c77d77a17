"""Odd images of every kind, made in place: those that can be read, and those that are refused with a reason."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms


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
