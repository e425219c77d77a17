"""Turns encoded images of any kind into small RGB images, or says in a few words why it cannot."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from PIL import Image

from data_scripts.images.memory_budget import MemoryBudget
from data_scripts.schema import DROP_REASON, ERROR, Batch
from modeling_mofi.data.images import ImageBounds, UnreadableImage, decode_image, shrunk_size


LOSSLESS_FORMATS = frozenset({"BMP", "GIF", "PNG", "TIFF"})
# Our defaults for pictures of the web.
BOUNDS = ImageBounds(max_aspect_ratio=20.0, min_side=8)
JPEG_QUALITY = 92
# Bytes for all decoders of a process: a PNG of 400 kB may take 1.6 GB, and 16 threads may meet one each.
DECODE_MEMORY = 2**31


def decode_images(
    batch: Batch,
    *,
    image_size: int,
    prepare: Callable[[Image.Image], Any] | None = None,
    num_threads: int = 1,
    memory: int = DECODE_MEMORY,
) -> Batch:
    """Replaces `image` (encoded, or why there is none) by a publishable one, and adds `pixels`.

    Args:
        batch: Column `image`: bytes, or the error that there is none.
        image_size: The shorter side of a larger image is shrunk to this, in pixels.
        prepare: Makes of an RGB image what the model takes.
        num_threads: Images decoded and prepared at the same time.
        memory: Bytes that the images being decoded may take in this process; one that takes more is decoded alone.

    Returns:
        The batch with `image` {bytes, path} and `pixels` (RGB Pillow images, or what `prepare` made of them); bad
        rows have a drop reason and an error.
    """
    decode = partial(try_decode, image_size=image_size, prepare=prepare, memory=memory)
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads) as pool:
            decoded = list(pool.map(decode, batch["image"]))
    else:
        decoded = [decode(data) for data in batch["image"]]
    batch["pixels"] = [pixels for pixels, _, _ in decoded]
    batch["image"] = [{"bytes": data, "path": None} for _, data, _ in decoded]
    batch[DROP_REASON] = [None if error is None else str(error) for _, _, error in decoded]
    batch[ERROR] = [None if error is None else error.detail for _, _, error in decoded]
    return batch


def try_decode(
    data: bytes | UnreadableImage,
    *,
    image_size: int,
    prepare: Callable[[Image.Image], Any] | None = None,
    memory: int = DECODE_MEMORY,
) -> tuple[Any, bytes | None, UnreadableImage | None]:
    """Pixels, publishable bytes and no error; or an error alone, without what its traceback would hold in memory."""
    try:
        if isinstance(data, UnreadableImage):
            raise data
        pixels, published = decode_publishable(data, image_size=image_size, memory=memory)
        return (pixels if prepare is None else prepare(pixels)), published, None
    except UnreadableImage as error:
        return None, None, UnreadableImage(str(error), error.detail)
    except Exception as error:  # Of an image processor that is not ours, or out of memory.
        return None, None, UnreadableImage("image cannot be prepared", error)


def decode_publishable(data: bytes, *, image_size: int, memory: int = DECODE_MEMORY) -> tuple[Image.Image, bytes]:
    """An RGB image with its shorter side at most `image_size`, and bytes that decode to it.

    Raises:
        UnreadableImage: With the reason.
    """
    decoded = decode_image(data, bounds=BOUNDS, shrink_to=image_size, charge=decoders(memory).charge)
    pixels, target = decoded.pixels, shrunk_size(decoded.pixels.size, image_size)
    if target != pixels.size:
        pixels = pixels.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
    elif decoded.is_plain:
        return pixels, data
    return pixels, encode_image(pixels, is_lossless=decoded.format in LOSSLESS_FORMATS)


@lru_cache
def decoders(memory: int) -> MemoryBudget:
    """What all decoders of this process share."""
    return MemoryBudget(memory)


def encode_image(image: Image.Image, *, is_lossless: bool) -> bytes:
    """Encodes what could not be kept: as PNG if the source lost nothing and the image is small, else as JPEG."""
    buffer = io.BytesIO()
    if is_lossless and max(image.size) <= 512:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
