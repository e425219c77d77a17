"""Reads pairs from Parquet files, row group by row group; only the columns that are asked for leave the disk."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.engine.files import fingerprint_file
from data_scripts.schema import Batch, Shard
from data_scripts.sources.records import check_columns


def plan_parquet(paths: list[str], *, rows_per_shard: int, names: list[str]) -> list[Shard]:
    """Cuts files into shards of at most `rows_per_shard` rows; only the footers are read.

    Raises:
        ValueError: If a file lacks a column; hours of work may lie before its turn.
    """
    shards: list[Shard] = []
    for path in paths:
        file = open_parquet(path)
        check_columns(names, file.schema_arrow.names, path=path)
        num_rows = file.metadata.num_rows
        fingerprint = fingerprint_file(path)
        for start in range(0, num_rows, rows_per_shard):
            stop = min(start + rows_per_shard, num_rows)
            shards.append(Shard(len(shards), "parquet", path, start=start, stop=stop, fingerprint=fingerprint))
    return shards


def read_parquet(
    shard: Shard, *, names: list[str], batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields row positions within the shard and columns; with `rows` (ascending), those rows alone.

    Raises:
        ValueError: If a column is missing or twice there, or a page cannot be read.
    """
    file = open_parquet(shard.path)
    check_columns(names, file.schema_arrow.names, path=shard.path)
    # Found once: it takes longer than to read a batch of small images.
    kinds = {name: plain_type(file.schema_arrow.field(name).type) for name in names}
    group_start = 0
    for group in range(file.metadata.num_row_groups):
        group_stop = group_start + file.metadata.row_group(group).num_rows
        first, last = max(group_start, shard.start), min(group_stop, shard.stop)
        if first < last and (rows is None or has_row(rows, first - shard.start, last - shard.start)):
            position = group_start
            for part in read_group(file, group, names=names, batch_size=batch_size, path=shard.path):
                yield from select_rows(part, position, shard=shard, rows=rows, kinds=kinds)
                position += part.num_rows
        group_start = group_stop


def read_group(
    file: pq.ParquetFile, group: int, *, names: list[str], batch_size: int, path: str
) -> Iterator[pa.RecordBatch]:
    """Batches of a row group.

    Raises:
        ValueError: If a page is damaged, or there are fewer rows than the footer says.
    """
    num_rows = 0
    try:
        for part in file.iter_batches(batch_size=batch_size, row_groups=[group], columns=names):
            num_rows += part.num_rows
            yield part
    except (pa.ArrowException, OSError) as error:
        message = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged: row group {group} cannot be read ({message})") from None
    if num_rows != file.metadata.row_group(group).num_rows:
        raise ValueError(f"{path} is damaged: row group {group} has {num_rows:,} rows, and others in the footer")


def select_rows(
    part: pa.RecordBatch, position: int, *, shard: Shard, rows: list[int] | None, kinds: dict[str, pa.DataType]
) -> Iterator[tuple[list[int], Batch]]:
    """Yields what a record batch, whose first row is `position` in the file, holds of the shard's wanted rows.

    Args:
        kinds: The columns that are read, with their types without encoding: Arrow cannot select rows of every one.
    """
    first, last = max(position, shard.start), min(position + part.num_rows, shard.stop)
    if first >= last:
        return
    low, high = first - shard.start, last - shard.start
    wanted = list(range(low, high)) if rows is None else rows[bisect_left(rows, low) : bisect_left(rows, high)]
    if wanted:
        indices = pa.array([row + shard.start - position for row in wanted], pa.int64())
        yield wanted, {name: to_python(as_type(part.column(name), kind).take(indices)) for name, kind in kinds.items()}


def has_row(rows: list[int], low: int, high: int) -> bool:
    """Whether any of some ascending rows lies in [low, high)."""
    found = bisect_left(rows, low)
    return found < len(rows) and rows[found] < high


def open_parquet(path: str) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        ValueError: If it is none.
    """
    try:
        return pq.ParquetFile(path)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, EOFError, OSError) as error:
        message = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a Parquet file ({message}); was its writing interrupted?") from None


def as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column in a type of the same values."""
    return column if column.type == kind else column.cast(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding: a dictionary of strings is strings, and so is a view of them."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.string() if kind == pa.string_view() else pa.binary()
    return map_type(kind, plain_type)


def binary_type(kind: pa.DataType) -> pa.DataType:
    """The type with bytes in the place of text."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    return map_type(kind, binary_type)


def map_type(kind: pa.DataType, change: Any) -> pa.DataType:
    """Changes the types inside lists and structs."""
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(change(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([inner.with_type(change(inner.type)) for inner in kind])
    return kind


def to_python(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values; text that is no UTF-8 has U+FFFD in it, and what Python cannot say (a year 10,000) is None."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [decode_texts(value, column.type) for value in column.cast(binary_type(column.type)).to_pylist()]
    except (ValueError, OverflowError):
        return [to_python_or_none(value) for value in column]


def decode_texts(value: Any, kind: pa.DataType) -> Any:
    """A value of `binary_type(kind)` as one of `kind`."""
    if value is None:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return value.decode("utf-8", errors="replace")
    if pa.types.is_struct(kind):
        return {inner.name: decode_texts(value[inner.name], inner.type) for inner in kind}
    if isinstance(value, list):
        return [decode_texts(element, kind.value_type) for element in value]
    return value


def to_python_or_none(value: pa.Scalar) -> Any:
    """The value; None if Python has none like it."""
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return None
