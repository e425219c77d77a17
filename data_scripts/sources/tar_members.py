"""Walks through the members of a tar, damaged or joined ones included, and says what is lost.

`tarfile` takes a damaged header, the end mark of the first of two joined tars, or a tail of zeros for the end, and
says nothing (https://github.com/python/cpython/issues/120740). Here the walk goes on to the end of the file.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


# What goes wrong when a compressed file is damaged or cut short. BadGzipFile is an OSError.
STREAM_ERRORS = (EOFError, OSError, zlib.error)
GZIP_MARK = b"\x1f\x8b"
# Of bzip2, xz and Zstandard: Python's readers of the first two take what is damaged after a stream for its end.
OTHER_MARKS = (b"BZ", b"\xfd7", b"\x28\xb5")
EXTENDED_TYPES = frozenset({b"x", b"g", b"X", b"L", b"K"})
MAX_EXTENDED_BYTES = 1_000_000
# Writers fill the last record of 20 blocks with zeros; two more blocks are the end mark.
MAX_END_BYTES = 22 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Damage:
    """Bytes of a tar, after decompression, that hold no member."""

    start: int
    error: str

    def __str__(self) -> str:
        return f"byte {self.start:,}: {self.error}"


class Member(NamedTuple):
    """A file in a tar; `archive` counts the tars that were joined into one file."""

    archive: int
    info: tarfile.TarInfo


class Header(tarfile.TarInfo):
    """A header whose size is judged before anything of that size is read."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "Header":
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in EXTENDED_TYPES and header.size > MAX_EXTENDED_BYTES):
            raise tarfile.InvalidHeaderError(f"a header of {header.size:,} bytes")
        return header


def open_tar(path: str) -> tarfile.TarFile:
    """Opens a tar, plain or compressed with gzip, whatever its name says.

    Raises:
        ValueError: If it is none.
    """
    mark = read_mark(path)
    if mark in OTHER_MARKS:
        raise ValueError(f"{path} is compressed, and not with gzip; unpack it, or compress it with gzip")
    try:
        return tarfile.open(path, "r:gz" if mark == GZIP_MARK else "r:", tarinfo=Header, ignore_zeros=True)
    except (FileNotFoundError, PermissionError):
        raise
    except (tarfile.TarError, ValueError, RecursionError, *STREAM_ERRORS) as error:
        message = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a whole tar file ({message}); download it again") from None


def read_mark(path: str) -> bytes:
    """The two bytes that tell how a file is compressed."""
    with open(path, "rb") as file:
        return file.read(2)


def walk_tar(tar: tarfile.TarFile) -> Iterator[Member | Damage]:
    """Yields the regular files of a tar in order, and where something is lost, what and where.

    A block that is neither a header nor zeros is damage up to the next header; so are more zeros than an end has, and
    an end without zeros. Zeros of an end with members after them are the joint of two tars, of which nothing is lost.
    """
    walk = Walk()
    try:
        while (header := next_header(tar, walk)) is not None:
            if walk.zeros_start is not None or walk.damage_start is not None:
                yield from walk.damages(before=header.offset)
            if header.isreg():
                yield Member(walk.archive, header)
        yield from walk.damages(before=None)
    except STREAM_ERRORS as error:
        if walk.damage_start is not None:  # What was flipped is met before the checksum at the end.
            yield from walk.damages(before=None)
        yield Damage(tar.offset, f"the compressed file is damaged or cut short ({error})")


@dataclass
class Walk:
    """Where a walk through a tar stands: what it has met since the last member.

    Attributes:
        zeros_start: First block of the run of zeros.
        damage_start: First block that is neither header nor zeros.
        stop: End of the last member, or of the file.
    """

    archive: int = 0
    zeros_start: int | None = None
    damage_start: int | None = None
    error: str = ""
    stop: int = 0

    def damages(self, *, before: int | None) -> Iterator[Damage]:
        """What lies between the last member and the one at `before`, or the end (None); forgets it."""
        stop = self.stop if before is None else before
        if self.damage_start is not None:
            yield Damage(self.damage_start, f"{self.error}; nothing is read up to byte {stop:,}")
        elif self.zeros_start is not None:
            if stop - self.zeros_start > MAX_END_BYTES:
                yield Damage(self.zeros_start, f"{stop - self.zeros_start:,} bytes of zeros")
            self.archive += 1
        elif before is None:
            yield Damage(stop, "no end mark: the file is cut short")
        self.zeros_start = self.damage_start = None


def next_header(tar: tarfile.TarFile, walk: Walk) -> tarfile.TarInfo | None:
    """The next header that holds; None at the end."""
    tar.offset = tar.offset if walk.stop else 0
    while True:
        start = tar.offset
        tar.fileobj.seek(start)
        try:
            header = Header.fromtarfile(tar)
            if header.size < 0 or tar.offset <= start:
                raise tarfile.InvalidHeaderError("a negative size")
            walk.stop = tar.offset
            return header
        except tarfile.EOFHeaderError:
            walk.zeros_start = start if walk.zeros_start is None else walk.zeros_start
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):
            tar.fileobj.seek(start)
            rest = tar.fileobj.read(tarfile.BLOCKSIZE)
            if rest.strip(b"\0") and walk.damage_start is None:
                walk.damage_start, walk.error = start, "less than a block"
            walk.stop = start + len(rest)
            return None
        except (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            if walk.damage_start is None:
                walk.damage_start, walk.error = start, f"no header where one belongs ({error})"
        tar.offset = walk.stop = start + tarfile.BLOCKSIZE


def read_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """The content of a member.

    Raises:
        tarfile.ReadError: If the file ends before it.
    """
    if info.sparse is not None:
        file = tar.extractfile(info)
        assert file is not None
        return file.read()
    tar.fileobj.seek(info.offset_data)
    content = tar.fileobj.read(info.size)
    if len(content) < info.size:
        raise tarfile.ReadError("the file ends inside a member")
    return content
