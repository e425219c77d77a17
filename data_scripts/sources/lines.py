"""Reads pairs from JSONL or CSV files whose rows name image files, and from image folders with such metadata."""

import csv
import gzip
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data_scripts.engine.files import fingerprint_file
from data_scripts.schema import Batch, Shard
from data_scripts.sources.parquet import check_columns


csv.field_size_limit(16_000_000)


def plan_lines(paths: list[str], *, rows_per_shard: int) -> list[Shard]:
    """Cuts files into shards of at most `rows_per_shard` rows; reads each file once to find where rows begin."""
    shards: list[Shard] = []
    for path in paths:
        fingerprint = fingerprint_file(path)
        header = read_header(path)
        starts = [offset for row, offset in enumerate(row_offsets(path, header)) if row % rows_per_shard == 0]
        for start, stop in itertools.zip_longest(starts, starts[1:]):
            options = {"header": header}
            shards.append(Shard(len(shards), "lines", path, start, stop, fingerprint, options))
    return shards


def read_lines(
    shard: Shard, *, names: list[str], batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields row positions within the shard and columns; with `rows` (ascending), those rows alone.

    Raises:
        ValueError: If a column is missing or a line is not JSON.
    """
    positions: list[int] = []
    columns: Batch = {name: [] for name in names}
    for position, record in enumerate(read_records(shard)):
        if position == 0:
            check_columns(names, list(record), path=shard.path)
        if rows is not None:
            found = bisect_left(rows, position)
            if found == len(rows):
                break
            if rows[found] != position:
                continue
        positions.append(position)
        for name in names:
            columns[name].append(record.get(name))
        if len(positions) == batch_size:
            yield positions, columns
            positions, columns = [], {name: [] for name in names}
    if positions:
        yield positions, columns


def open_bytes(path: str) -> BinaryIO:
    """Opens a plain or gzip file."""
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def is_csv(path: str) -> bool:
    """Whether a file holds separated values, not JSON lines."""
    return Path(path.removesuffix(".gz")).suffix in (".csv", ".tsv")


def read_header(path: str) -> list[str] | None:
    """Column names of a CSV file; None for JSONL, whose rows carry them."""
    if not is_csv(path):
        return None
    with open_bytes(path) as file:
        return next(csv.reader(decoded_lines(file), delimiter=delimiter_of(path)), [])


def delimiter_of(path: str) -> str:
    """Tab for `.tsv`, comma otherwise."""
    return "\t" if ".tsv" in Path(path).name else ","


def decoded_lines(file: BinaryIO) -> Iterator[str]:
    """Lines as text; what is no UTF-8 becomes U+FFFD, a NUL too, and a byte order mark goes."""
    for number, line in enumerate(iter(file.readline, b"")):
        text = line.decode("utf-8", errors="replace").replace("\0", "\ufffd")
        yield text.removeprefix("\ufeff") if number == 0 else text


def row_offsets(path: str, header: list[str] | None) -> Iterator[int]:
    """The byte at which each row starts; a quoted CSV field may hold line breaks."""
    with open_bytes(path) as file:
        if header is None:
            start = 0
            for line in iter(file.readline, b""):
                if line.strip():
                    yield start
                start = file.tell()
            return
        rows = csv.reader(decoded_lines(file), delimiter=delimiter_of(path))
        next(rows, None)
        start = file.tell()
        for row in rows:
            if row:
                yield start
            start = file.tell()


def read_records(shard: Shard) -> Iterator[dict[str, Any]]:
    """Rows of a shard as dicts."""
    header = shard.options["header"]
    with open_bytes(shard.path) as file:
        file.seek(shard.start)
        lines = lines_until(file, shard.stop)
        if header is None:
            for line in lines:
                if line.strip():
                    yield parse_line(line, shard)
        else:
            for row in csv.reader(lines, delimiter=delimiter_of(shard.path)):
                if row:
                    yield dict(zip(header, row, strict=False))


def lines_until(file: BinaryIO, stop: int | None) -> Iterator[str]:
    """Decoded lines up to a byte."""
    while stop is None or file.tell() < stop:
        line = file.readline()
        if not line:
            return
        yield line.decode("utf-8", errors="replace").replace("\0", "\ufffd").removeprefix("\ufeff")


def parse_line(line: str, shard: Shard) -> dict[str, Any]:
    """One JSON line.

    Raises:
        ValueError: If it is no JSON object.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{shard.path}: a line is not JSON ({error}): {line[:80]!r}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{shard.path}: expected one JSON object a line, got {line[:80]!r}")
    return record
