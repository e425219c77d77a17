"""Rows as readers find them, whole or not: a row that cannot be read has a reason and goes on through the build."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from data_scripts.schema import DROP_REASON, ERROR, NOTE, Batch


class Record(NamedTuple):
    """A row of a source.

    Attributes:
        values: By column; columns that the row lacks are missing.
        reason: Why the row cannot be used, in one of a few wordings that can be counted.
        error: What exactly was wrong, and where.
        note: What was lost of a row that is kept.
    """

    values: dict[str, Any]
    reason: str | None = None
    error: str | None = None
    note: str | None = None


def batch_records(
    records: Iterable[tuple[int, Record]], *, names: list[str], batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Joins numbered rows into batches: positions, and columns with `drop_reason`, `error` and `note` among them."""
    positions: list[int] = []
    waiting: list[Record] = []
    for position, record in records:
        positions.append(position)
        waiting.append(record)
        if len(waiting) == batch_size:
            yield positions, to_columns(waiting, names)
            positions, waiting = [], []
    if waiting:
        yield positions, to_columns(waiting, names)


def to_columns(records: list[Record], names: list[str]) -> Batch:
    """Rows as columns."""
    columns: Batch = {name: [record.values.get(name) for record in records] for name in names}
    columns[DROP_REASON] = [record.reason for record in records]
    columns[ERROR] = [record.error for record in records]
    columns[NOTE] = [record.note for record in records]
    return columns


def check_columns(names: Iterable[str], available: list[str], *, path: str) -> None:
    """Refuses columns that the source does not have, or has twice.

    Raises:
        ValueError: With the columns that it has.
    """
    for name in names:
        if name not in available:
            raise ValueError(
                f"{path} has no column {name!r}; it has {', '.join(available)[:1000]}. Set --image_column, "
                "--alt_text_column, --image_id_column or --keep_columns."
            )
        if available.count(name) > 1:
            raise ValueError(f"{path} has {available.count(name)} columns named {name!r}; rename all but one")
