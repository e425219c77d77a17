"""The one opener of images: any file or bytes to RGB pixels in bounded memory, or a few words why not.

Pictures of the web, training rows, galleries and uploads are opened here and nowhere else. Formats are listed, so
that no interpreter such as Ghostscript is ever started; sizes are judged by the header; whatever a decoder raises
becomes an `UnreadableImage`.
"""

import errno
import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..image_modes_mofi import read_orientation, to_rgb
from .image_containers import without_metadata


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# Of the others it is not asked whether they move: an answer reads every frame, the damaged ones too.
PLAIN_FORMATS = ("JPEG", "PNG", "WEBP")
MARKUP = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<svg")
URI = re.compile(r"\s*(?:(data:)|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
FILE_REASONS = {
    errno.ENOENT: "image file missing",
    errno.ENOTDIR: "image file missing",
    errno.EISDIR: "image file missing",
    errno.ENAMETOOLONG: "image path too long",
    errno.ELOOP: "image path is a loop of links",
}
# Bytes for a pixel while it is decoded, turned, laid on white and held: of 8 bits a channel, and of more (floats).
BYTES_PER_PIXEL, BYTES_PER_DEEP_PIXEL = 10, 20


class UnreadableImage(ValueError):
    """An image that cannot be read, or is beyond the bounds.

    Args:
        reason: The message, one of a few that can be counted.
        detail: What exactly was found, to help find the image.
    """

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        is_raised = isinstance(detail, Exception)
        self.detail = f"{type(detail).__name__}: {detail}".strip(": ") if is_raised else str(detail)


@dataclass(frozen=True)
class ImageBounds:
    """What may be opened; anything else is rejected by its header.

    Attributes:
        max_bytes: Of the file.
        max_pixels: By default Pillow's own mark of a decompression bomb, a quarter of a gigabyte when decoded.
        max_aspect_ratio: Longer by shorter side: processors enlarge the shorter side to their size.
        min_side: Pixels of the shorter side.
    """

    max_bytes: int = 100_000_000
    max_pixels: int = 89_478_485
    max_aspect_ratio: float = 100.0
    min_side: int = 1


DEFAULT_BOUNDS = ImageBounds()
Charge = Callable[[int], AbstractContextManager[Any]]


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of an image and what is known of its file.

    Attributes:
        pixels: RGB, upright, opaque; of an animation the first frame.
        format: Pillow's name of the format.
        is_plain: Whether any decoder makes exactly `pixels` of the file: one RGB frame, upright, not shrunk.
    """

    pixels: Image.Image
    format: str
    is_plain: bool


def read_image(
    source: Any,
    *,
    bounds: ImageBounds = DEFAULT_BOUNDS,
    shrink_to: int | None = None,
    folders: Sequence[str] | None = None,
) -> Image.Image:
    """An RGB image out of `{"bytes", "path"}`, bytes, a path or a Pillow image.

    Args:
        folders: As for `locate_image`, where the source is a row of a dataset; None follows a user's path anywhere.
        shrink_to: Lets the JPEG decoder shrink the image, to no less than this many pixels of its shorter side.

    Raises:
        UnreadableImage: With the reason.
    """
    if isinstance(source, Image.Image):
        return decode_opened(source)
    data = image_bytes(source, bounds=bounds, folders=folders)
    return decode_image(data, bounds=bounds, shrink_to=shrink_to).pixels


def image_bytes(source: Any, *, bounds: ImageBounds = DEFAULT_BOUNDS, folders: Sequence[str] | None = None) -> bytes:
    """The encoded image behind `{"bytes", "path"}`, bytes or a path; arguments as for `read_image`.

    Raises:
        UnreadableImage: With the reason.
    """
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if source is None or source == "":
        raise UnreadableImage("no image")
    if isinstance(source, (str, os.PathLike)):
        path = source if folders is None else locate_image(source, folders)
        return read_file(path, max_bytes=bounds.max_bytes)
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise UnreadableImage(f"image column holds a {type(source).__name__}")
    if len(source) > bounds.max_bytes:
        raise UnreadableImage("image file too large", f"{len(source):,} bytes")
    return bytes(source)


def locate_image(path: str | os.PathLike, folders: Sequence[str]) -> str:
    """Absolute path of an image file that a row names; a dataset of others may name any file of this machine.

    Args:
        folders: Absolute paths of where image files may lie; a relative path starts at the first. Links are followed.

    Raises:
        UnreadableImage: If it lies in none of the folders.
    """
    if found := URI.match(os.fspath(path)):
        raise UnreadableImage("image is a data URI" if found[1] else "image is a URL")
    located = os.path.normpath(os.path.join(folders[0] if folders else os.sep, path))
    if not any(Path(located).is_relative_to(folder) for folder in folders):
        raise UnreadableImage("image path outside the folder of the data")
    return located


def read_file(path: str | os.PathLike, *, max_bytes: int = DEFAULT_BOUNDS.max_bytes) -> bytes:
    """Reads a regular file; a pipe or device is never waited for.

    Raises:
        UnreadableImage: With the reason.
    """
    if found := URI.match(os.fspath(path)):
        raise UnreadableImage("image is a data URI" if found[1] else "image is a URL")
    try:
        with open(path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("image path is no file", path)
            data = file.read(max_bytes + 1) if status.st_size <= max_bytes else None
    except OSError as error:
        raise UnreadableImage(FILE_REASONS.get(error.errno or 0, "image file unreadable"), path) from error
    except UnreadableImage:
        raise
    except ValueError as error:  # A NUL in the path, or a lone surrogate.
        raise UnreadableImage("image file missing", path) from error
    if data is None or len(data) > max_bytes:
        raise UnreadableImage("image file too large", path)
    return data


def open_at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe without waiting for its other end, which may never come."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode_image(
    data: bytes,
    *,
    bounds: ImageBounds = DEFAULT_BOUNDS,
    shrink_to: int | None = None,
    charge: Charge = nullcontext,
) -> DecodedImage:
    """Decodes an image; damaged metadata cost nothing but themselves.

    Args:
        charge: Entered with the bytes of memory that decoding takes, once they are known; may wait.

    Raises:
        UnreadableImage: With the reason.
    """
    try:
        return decode_as_it_came(data, bounds=bounds, shrink_to=shrink_to, charge=charge)
    except UnreadableImage as error:
        bare, exif = without_metadata(data)
        if bare == data or not isinstance(error.__cause__, Exception):
            raise
        decoded = decode_as_it_came(bare, exif, bounds=bounds, shrink_to=shrink_to, charge=charge)
        return DecodedImage(decoded.pixels, decoded.format, is_plain=False)


def decode_as_it_came(
    data: bytes, exif: bytes | None = None, *, bounds: ImageBounds, shrink_to: int | None, charge: Charge
) -> DecodedImage:
    """Opens and decodes an image once; `exif` is a block that it has lost."""
    image = open_image(data, bounds=bounds)
    if exif is not None:
        image.info["exif"] = exif
    was, is_opaque = (image.mode, image.size), "transparency" not in image.info
    pixels = decode_opened(image, shrink_to=shrink_to, charge=charge)
    # Only now: to find its EXIF, Pillow decodes a PNG, and an error would be taken for one of the EXIF.
    is_upright = read_orientation(image) == 1
    is_plain = was == ("RGB", pixels.size) and is_upright and is_opaque and image.format in PLAIN_FORMATS
    return DecodedImage(pixels, image.format or "", is_plain and not getattr(image, "is_animated", False))


def open_image(data: bytes, *, bounds: ImageBounds = DEFAULT_BOUNDS) -> Image.Image:
    """Opens an image without decoding it and judges its header.

    Raises:
        UnreadableImage: With the reason.
    """
    if not data:
        raise UnreadableImage("empty image")
    if data[:256].lstrip()[:14].lower().startswith(MARKUP):
        raise UnreadableImage("markup instead of an image", data[:80])
    try:
        with warnings.catch_warnings():
            # Pillow would warn about sizes that are rejected here with our own message.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too many pixels", error) from None
    except UnidentifiedImageError as error:
        raise UnreadableImage("unknown image format", f"begins with {data[:16]!r}") from error
    except Exception as error:  # Decoders meet damaged files with errors of almost any type.
        raise UnreadableImage(reason_of(error), error) from error
    width, height = image.size
    pixels = f"{width} x {height} pixels"
    if width * height > bounds.max_pixels:
        raise UnreadableImage("too many pixels", pixels)
    if max(width, height) > bounds.max_aspect_ratio * min(width, height):
        raise UnreadableImage("extreme aspect ratio", pixels)
    if min(width, height) < bounds.min_side:
        raise UnreadableImage("image too small", pixels)
    return image


def decode_opened(image: Image.Image, *, shrink_to: int | None = None, charge: Charge = nullcontext) -> Image.Image:
    """RGB pixels of an opened image.

    Raises:
        UnreadableImage: With the reason.
    """
    try:
        if shrink_to is not None and image.format in ("JPEG", "MPO"):
            image.draft("RGB", shrunk_size(image.size, shrink_to))
        is_deep = image.mode.startswith(("I", "F"))
        with charge(image.width * image.height * (BYTES_PER_DEEP_PIXEL if is_deep else BYTES_PER_PIXEL)):
            return to_rgb(image)
    except Exception as error:
        raise UnreadableImage(reason_of(error), error) from error


def reason_of(error: Exception) -> str:
    """A short reason for what a decoder raised."""
    return "truncated image" if "truncated" in str(error) else "corrupt image"


def shrunk_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """The size whose shorter side has so many pixels; the same size if it is not larger."""
    width, height = size
    shorter = min(width, height)
    if shorter <= shorter_side:
        return size
    return max(1, round(width * shorter_side / shorter)), max(1, round(height * shorter_side / shorter))
