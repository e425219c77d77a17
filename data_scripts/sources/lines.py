"""Reads pairs from JSONL, CSV or TSV files whose rows name image files, and from image folders with such metadata.

A row that cannot be read is counted with its line and a reason, and reading goes on with the next.
"""

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from data_scripts.engine.files import fingerprint_file
from data_scripts.schema import Batch, Shard
from data_scripts.sources.records import Record, batch_records
from data_scripts.sources.separated import Line, Row, csv_rows, tsv_rows


MAX_LINE_BYTES = 16_000_000
# Not strict: a raw tab or NUL inside a string is cleaned later, as in every other source.
DECODE = json.JSONDecoder(strict=False).decode
BLANK = b"\xef\xbb\xbf \t\r\n"  # An empty file may hold a byte order mark.
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def plan_lines(paths: list[str], *, rows_per_shard: int, columns: list[str]) -> list[Shard]:
    """Cuts files into shards of at most `rows_per_shard` rows; reads each file once to find where rows begin.

    Args:
        columns: Names of the columns of CSV and TSV files that have no header line; empty if they have one.

    Raises:
        ValueError: If a file is not UTF-8, or compressed and damaged.
    """
    shards: list[Shard] = []
    for path in paths:
        fingerprint = fingerprint_file(path)
        options = {"header": read_header(path, columns=columns), "has_header": not columns}
        rows = iterate_rows(path, header=options["header"], skip_header=not columns)
        starts = [(row.start, row.number) for position, row in enumerate(rows) if position % rows_per_shard == 0]
        for (start, number), following in itertools.zip_longest(starts, starts[1:]):
            stop = None if following is None else following[0]
            shards.append(Shard(len(shards), "lines", path, start, stop, fingerprint, options | {"line": number}))
    return shards


def read_lines(
    shard: Shard, *, names: list[str], batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields row positions within the shard and columns; with `rows` (ascending), those rows alone."""
    yield from batch_records(read_records(shard, rows), names=names, batch_size=batch_size)


def read_records(shard: Shard, rows: list[int] | None = None) -> Iterator[tuple[int, Record]]:
    """Rows of a shard with their positions; lines of rows that are not wanted are not parsed."""
    header = shard.options["header"]
    parse = parse_json if header is None else partial(parse_fields, header=header)
    wanted = None if rows is None else set(rows)
    found = iterate_rows(shard.path, header=header, start=shard.start, number=shard.options["line"])
    for position, row in enumerate(found):
        if row.start == shard.stop or (rows is not None and (not rows or position > rows[-1])):
            return
        if wanted is None or position in wanted:
            yield position, parse(row)


@contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """Opens a plain or gzip file.

    Raises:
        ValueError: If what is read of a gzip file is damaged or cut short.
    """
    try:
        if path.endswith(".gz"):
            with gzip.open(path, "rb") as file:
                yield io.BufferedReader(file, 1 << 20)  # type: ignore[type-var]  # GzipFile reads lines slowly.
        else:
            with open(path, "rb") as file:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); download it again") from None


def is_separated(path: str) -> bool:
    """Whether a file holds separated values, not JSON lines."""
    return Path(path.removesuffix(".gz")).suffix in (".csv", ".tsv")


def is_tsv(path: str) -> bool:
    """Whether values are separated by tabs, without quoting, as CC3M, CC12M and YFCC are."""
    return path.removesuffix(".gz").endswith(".tsv")


def read_header(path: str, *, columns: list[str]) -> list[str] | None:
    """Column names of a CSV or TSV file; None for JSONL, whose rows carry them.

    Raises:
        ValueError: If the file is UTF-16, or ends its lines as no one does any more.
    """
    with open_bytes(path) as file:
        mark = file.read(4)
    if mark[:2] in UTF_16_MARKS or b"\0" in mark:
        raise ValueError(f"{path} is UTF-16, UTF-32 or no text; save it as UTF-8")
    if not is_separated(path) or columns:
        return columns if is_separated(path) else None
    first = next(iterate_rows(path, header=[], skip_header=False), None)
    if first is None or first.fields is None:
        return []
    if any("\r" in name for name in first.fields):
        raise ValueError(f"{path} ends its lines with a carriage return alone; save it with LF or CR LF")
    return first.fields


def iterate_rows(
    path: str, *, header: list[str] | None, start: int = 0, number: int = 1, skip_header: bool = False
) -> Iterator[Row | Line]:
    """Rows from a byte on, not yet parsed; blank lines are none.

    Args:
        header: Column names; None for JSONL.
        number: Of the line at `start`, for messages.
    """
    with open_bytes(path) as file:
        lines = iterate_lines(file, start=start, number=number)
        if header is None:
            rows = (line for line in lines if line.content is None or line.content.strip(BLANK))
        else:
            rows = (tsv_rows if is_tsv(path) else csv_rows)(lines, num_fields=len(header))
        yield from itertools.islice(rows, 1 if skip_header and header is not None else 0, None)


def iterate_lines(file: BinaryIO, *, start: int, number: int) -> Iterator[Line]:
    """Lines from a byte on, with their place; what is longer than `MAX_LINE_BYTES` is passed over, not held."""
    file.seek(start)
    while content := file.readline(MAX_LINE_BYTES):
        size = len(content)
        if size == MAX_LINE_BYTES and not content.endswith(b"\n"):
            rest = content
            while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                size += len(rest)
            yield Line(start, number, None)
        else:
            yield Line(start, number, content)
        start += size
        number += 1


def parse_json(row: Row | Line) -> Record:
    """One JSON line."""
    if row.content is None:
        return Record({}, "line too long", f"line {row.number} has over {MAX_LINE_BYTES:,} bytes")
    text = row.content.decode("utf-8", errors="replace")
    try:
        values = DECODE(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        # Broken syntax, integers of thousands of digits, objects nested thousands deep.
        return Record({}, "line is not JSON", f"line {row.number}: {error}: {text[:80]!r}")
    if not isinstance(values, dict):
        return Record({}, "line is no JSON object", f"line {row.number}: {text[:80]!r}")
    return Record(values)


def parse_fields(row: Row, *, header: list[str]) -> Record:
    """One row of separated values."""
    if row.fields is not None and len(row.fields) == len(header):
        if row.fields == header:
            return Record({}, "header line again", f"line {row.number}")
        return Record(dict(zip(header, row.fields, strict=True)))
    if row.content is None:
        return Record({}, "line too long", f"line {row.number} has over {MAX_LINE_BYTES:,} bytes")
    error = row.error or f"{len(row.fields or ())} fields, expected {len(header)}"
    return Record({}, "wrong number of fields", f"line {row.number}: {error}: {row.content[:80]!r}")
