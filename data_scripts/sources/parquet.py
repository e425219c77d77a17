"""Reads pairs from Parquet files, row group by row group; only the columns that are asked for leave the disk."""

from bisect import bisect_left
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.engine.files import fingerprint_file
from data_scripts.schema import Batch, Shard


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
        ValueError: If a column is missing.
    """
    file = open_parquet(shard.path)
    check_columns(names, file.schema_arrow.names, path=shard.path)
    group_start = 0
    for group in range(file.metadata.num_row_groups):
        group_stop = group_start + file.metadata.row_group(group).num_rows
        first, last = max(group_start, shard.start), min(group_stop, shard.stop)
        if first < last and (rows is None or has_row(rows, first - shard.start, last - shard.start)):
            position = group_start
            for part in file.iter_batches(batch_size=batch_size, row_groups=[group], columns=names):
                yield from select_rows(part, position, shard=shard, rows=rows)
                position += part.num_rows
        group_start = group_stop


def select_rows(
    part: pa.RecordBatch, position: int, *, shard: Shard, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields what a record batch, whose first row is `position` in the file, holds of the shard's wanted rows."""
    first, last = max(position, shard.start), min(position + part.num_rows, shard.stop)
    if first >= last:
        return
    low, high = first - shard.start, last - shard.start
    wanted = list(range(low, high)) if rows is None else rows[bisect_left(rows, low) : bisect_left(rows, high)]
    if wanted:
        indices = pa.array([row + shard.start - position for row in wanted], pa.int64())
        yield wanted, {name: part.column(name).take(indices).to_pylist() for name in part.schema.names}


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
    except (pa.ArrowInvalid, EOFError) as error:
        raise ValueError(f"{path} is not a Parquet file ({error}); was its writing interrupted?") from None


def check_columns(names: list[str], available: list[str], *, path: str) -> None:
    """Refuses columns that the source does not have.

    Raises:
        ValueError: With the columns that it has.
    """
    for name in names:
        if name not in available:
            raise ValueError(
                f"{path} has no column {name!r}; it has {', '.join(available)}. Set --image_column, "
                "--alt_text_column, --image_id_column or --keep_columns."
            )
