"""Turns encoded images of any kind into small RGB images, or says in a few words why it cannot."""

import io
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from PIL import Image, UnidentifiedImageError

from data_scripts.schema import DROP_REASON, Batch
from modeling_mofi.image_processing_mofi import to_rgb


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# Bytes of these formats are published as they came, if nothing about the image had to change.
KEPT_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})
LOSSLESS_FORMATS = frozenset({"BMP", "GIF", "PNG", "TIFF"})
# Our defaults. 89 million pixels is also Pillow's own limit.
MAX_PIXELS = 89_478_485
MAX_ASPECT_RATIO = 20.0
MIN_SIDE = 8
JPEG_QUALITY = 92


class UnusableImage(ValueError):
    """An image that is dropped; the message is the reason, one of a few."""


def decode_images(
    batch: Batch, *, image_size: int, prepare: Callable[[Image.Image], Any] | None = None, num_threads: int = 1
) -> Batch:
    """Replaces `image` (encoded, or the reason why there is none) by a publishable one, and adds `pixels`.

    Args:
        batch: Column `image`: bytes, or a string with a reason.
        image_size: The shorter side of a larger image is shrunk to this, in pixels.
        prepare: Makes of an RGB image what the model takes.
        num_threads: Images decoded and prepared at the same time.

    Returns:
        The batch with `image` {bytes, path} and `pixels` (RGB Pillow images, or what `prepare` made of them); bad
        rows have a drop reason.
    """
    decode = partial(try_decode, image_size=image_size, prepare=prepare)
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads) as pool:
            decoded = list(pool.map(decode, batch["image"]))
    else:
        decoded = [decode(data) for data in batch["image"]]
    batch["pixels"] = [pixels for pixels, _, _ in decoded]
    batch["image"] = [{"bytes": data, "path": None} for _, data, _ in decoded]
    batch[DROP_REASON] = [reason for _, _, reason in decoded]
    return batch


def try_decode(
    data: bytes | str, *, image_size: int, prepare: Callable[[Image.Image], Any] | None = None
) -> tuple[Any, bytes | None, str | None]:
    """Pixels, publishable bytes and no reason; or a reason alone."""
    if isinstance(data, str):
        return None, None, data
    try:
        pixels, published = decode_image(data, image_size=image_size)
    except UnusableImage as error:
        return None, None, str(error)
    return (pixels if prepare is None else prepare(pixels)), published, None


def decode_image(data: bytes, *, image_size: int) -> tuple[Image.Image, bytes]:
    """An RGB image with its shorter side at most `image_size`, and bytes that decode to it.

    Raises:
        UnusableImage: With the reason.
    """
    image = open_image(data)
    source = image.format, image.mode, image.size
    is_animated = getattr(image, "is_animated", False)
    pixels = decode_pixels(image, image_size=image_size)
    is_turned = image.getexif().get(0x0112, 1) != 1
    is_same = source[1:] == ("RGB", pixels.size) and not is_turned and not is_animated
    if is_same and source[0] in KEPT_FORMATS:
        return pixels, data
    return pixels, encode_image(pixels, is_lossless=source[0] in LOSSLESS_FORMATS)


def decode_pixels(image: Image.Image, *, image_size: int) -> Image.Image:
    """Decodes an opened image to RGB, at most `image_size` on its shorter side.

    A large JPEG is decoded at a fraction of its size; of an animation the first frame is taken; transparency is laid
    on white; 16 bits become 8; the EXIF orientation is applied.

    Raises:
        UnusableImage: With the reason.
    """
    try:
        if image.format in ("JPEG", "MPO"):
            image.draft("RGB", shrunk_size(image.size, image_size))
        image.load()
        pixels = to_rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        raise UnusableImage("truncated image" if "truncated" in str(error) else "corrupt image") from None
    target = shrunk_size(pixels.size, image_size)
    if target == pixels.size:
        return pixels
    return pixels.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)


def open_image(data: bytes) -> Image.Image:
    """Opens an image without decoding it and judges its header.

    Raises:
        UnusableImage: With the reason.
    """
    if not data:
        raise UnusableImage("empty image")
    if data[:256].lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<svg")):
        raise UnusableImage("markup instead of an image")
    try:
        with warnings.catch_warnings():
            # Pillow warns about sizes that this function refuses in its own words.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UnusableImage("too many pixels") from None
    except UnidentifiedImageError:
        raise UnusableImage("unknown image format") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise UnusableImage("truncated image" if "truncated" in str(error) else "corrupt image") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnusableImage("too many pixels")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnusableImage("extreme aspect ratio")
    if min(width, height) < MIN_SIDE:
        raise UnusableImage("image too small")
    return image


def shrunk_size(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """The size whose shorter side is `image_size`; the same size if it is not larger."""
    width, height = size
    shorter = min(width, height)
    if shorter <= image_size:
        return size
    return max(1, round(width * image_size / shorter)), max(1, round(height * image_size / shorter))


def encode_image(image: Image.Image, *, is_lossless: bool) -> bytes:
    """Encodes what could not be kept: as PNG if the source lost nothing and the image is small, else as JPEG."""
    buffer = io.BytesIO()
    if is_lossless and max(image.size) <= 512:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
