"""Writes arrays that are larger than the memory, a piece at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from modeling_mofi.whole_files import write_whole


def write_pieces(path: Path, pieces: Iterable[np.ndarray], dtype: np.typing.DTypeLike) -> int:
    """Writes a `.npy` file of pieces, one after the other; returns how many rows they have.

    Args:
        pieces: All of the same shape but for their first dimension.
    """
    num_rows, row_shape = 0, ()
    with write_whole(path) as temporary, temporary.open("wb+") as file:
        write_header(file, (0,), dtype)
        start = file.tell()
        for piece in pieces:
            num_rows, row_shape = num_rows + len(piece), piece.shape[1:]
            file.write(np.ascontiguousarray(piece, dtype).data)
        file.seek(0)
        write_header(file, (num_rows, *row_shape), dtype)
        # NumPy leaves room in every header for a first dimension that grows.
        assert file.tell() == start
    return num_rows


def write_header(file, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
    """Writes what a `.npy` file begins with."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def ranges(num_rows: int, size: int) -> Iterable[tuple[int, int]]:
    """First and last row of each of the pieces of so many rows."""
    return ((first, min(first + size, num_rows)) for first in range(0, num_rows, size))


def read_each(files: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """One array of each file."""
    for path in files:
        with np.load(path) as arrays:
            yield arrays[name]


def offset_pieces(numbers: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The offsets of rows with some numbers of values, 0 first, a piece at a time."""
    last = 0
    yield np.zeros(1, np.int64)
    for number in numbers:
        offsets = last + np.cumsum(number, dtype=np.int64)
        last = int(offsets[-1]) if len(offsets) else last
        yield offsets
