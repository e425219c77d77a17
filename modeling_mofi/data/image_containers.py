"""What of an image file decides its pixels: the rest can be left out where Pillow stumbles over it."""

import zlib
from collections.abc import Iterator


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
# EXIF says how the image is turned; a block that Pillow cannot read turns nothing.
PNG_CHECKED_CHUNKS = frozenset({b"tRNS", b"eXIf"})
# JFIF and Adobe say what the channels are; the other segments for applications hold EXIF, ICC, XMP, further images.
JPEG_LEFT_OUT = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
START_OF_SCAN = 0xDA


def without_metadata(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG, JPEG or AVIF without what Pillow may stumble over, and the EXIF block that a JPEG has lost by it.

    Texts, profiles and further frames go. What does not follow its format is left to the decoder.
    """
    if data.startswith(PNG_SIGNATURE):
        return b"".join([PNG_SIGNATURE, *(chunk for kind, chunk in png_chunks(data) if is_needed(kind, chunk))]), None
    if data.startswith(b"\xff\xd8\xff"):
        return without_jpeg_segments(data)
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        # The item stays, under a type that no decoder looks for. AVIF stores the orientation elsewhere.
        return data.replace(b"Exif", b"free"), None
    return data, None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each chunk: length, kind, content and checksum; the last one may be cut short."""
    start = len(PNG_SIGNATURE)
    while start < len(data):
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start:stop]
        start = stop


def is_needed(kind: bytes, chunk: bytes) -> bool:
    """Whether a PNG chunk decides pixels; of those that may be missing, one with a wrong checksum does not."""
    if kind in PNG_CHECKED_CHUNKS:
        return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
    return kind in PNG_CHUNKS


def without_jpeg_segments(data: bytes) -> tuple[bytes, bytes | None]:
    """A JPEG without comments and segments for applications, and its EXIF block, which says how it is turned."""
    kept, exif, start = [data[:2]], None, 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] not in (START_OF_SCAN, 0xFF):
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] not in JPEG_LEFT_OUT:
            kept.append(data[start:stop])
        elif exif is None and data[start + 4 : start + 10] == b"Exif\0\0":
            exif = data[start + 4 : stop]
        start = stop
    return b"".join([*kept, data[start:]]), exif
