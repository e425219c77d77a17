"""Runs stages, functions from batch to batch, over shards: the work of the jobs that read rows.

Neighbouring shards may run as a group, whose batches go on from one shard into the next: small shards then fill a
GPU's batches too. A group depends on the shards' numbers of rows alone, and is run as a whole or not at all, so that
whoever runs it, and after whatever interruption, each image meets the same batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.engine.jobs import Group, Job, Manifest, WriteFile
from data_scripts.engine.row_counts import RowCounter
from data_scripts.schema import SHARD, Batch, Shard, num_rows


@dataclass(frozen=True)
class Step:
    """A stage with its arguments bound.

    Attributes:
        name: Of the stage, for counts and logs.
        function: Batch to batch.
        batch_size: Rows the stage wants at once; batches are joined and cut to that. None takes them as they come.
        lookahead: Batches that the steps before may get ready, in a thread of their own, while this one works.
    """

    name: str
    function: Callable[[Batch], Batch]
    batch_size: int | None = None
    lookahead: int = 0


@dataclass(frozen=True)
class Stages:
    """Stages that run one after another, with one output file for each shard.

    Attributes:
        read: Gives the batches of a shard.
        steps: The stages.
        schema: Columns of the output.
        row_group_size: Rows per row group of the output.
        reading: Name of the stage that drops what cannot be read; if no step has it, it is that of `read`.
    """

    read: Callable[[Shard], Iterator[Batch]]
    steps: tuple[Step, ...]
    schema: pa.Schema
    row_group_size: int = 10_000
    reading: str | None = None

    @property
    def reader(self) -> str | None:
        """Name of `read`, if it is the stage that drops what cannot be read."""
        return None if self.reading in [step.name for step in self.steps] else self.reading

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages that count rows, in their order."""
        return (*([self.reader] if self.reader else []), *(step.name for step in self.steps))


def stages_job(name: str, folder: Path, config_hash: str, stages: Stages, **settings: Any) -> Job:
    """The job that runs stages over shards; settings as for `Job`."""
    work = partial(run_stages, stages)
    return Job(name, folder, config_hash, work, stages=stages.names, reading=stages.reading, **settings)


def group_shards(shards: Sequence[Shard], *, before: Job, min_rows: int) -> list[Group]:
    """Joins neighbouring shards until the job before has left a group so many rows."""
    groups: list[list[Shard]] = [[]]
    waiting = 0
    for shard in shards:
        groups[-1].append(shard)
        waiting += pq.read_metadata(before.path(shard)).num_rows
        if waiting >= min_rows:
            groups.append([])
            waiting = 0
    return [tuple(group) for group in groups if group]


def run_stages(stages: Stages, group: Group) -> Generator[WriteFile, None, None]:
    """Runs the stages on a group of shards; gives what writes the output of each."""
    counter = RowCounter(group, stages.names, reading=stages.reading)
    with ExitStack() as stack:
        batches = read_group(stages, group)
        if stages.reader is not None:
            batches = counter.apply(stages.reader, lambda batch: batch, batches)
        batches = counter.count_notes(batches)
        for step in stages.steps:
            batches = rebatch(batches, step.batch_size) if step.batch_size else batches
            if step.lookahead:
                batches = stack.enter_context(prepared_ahead(batches, step.lookahead))
            batches = counter.apply(step.name, step.function, batches)
        parts = groupby(split_by_shard(batches), key=lambda part: part[0])
        part = next(parts, None)
        for shard in group:
            if part is not None and part[0] == shard.index:
                yield partial(write_shard, stages, shard, (batch for _, batch in part[1]), counter)
                part = next(parts, None)
            else:
                yield partial(write_shard, stages, shard, (), counter)


def write_shard(stages: Stages, shard: Shard, batches: Iterable[Batch], counter: RowCounter, path: Path) -> Manifest:
    """Writes the output of a shard; returns its counts."""
    write_table(path, batches, schema=stages.schema, row_group_size=stages.row_group_size)
    return counter.counts_of(shard)


def read_group(stages: Stages, group: Group) -> Iterator[Batch]:
    """Batches of one shard after the other, their rows marked with it."""
    for shard in group:
        for batch in stages.read(shard):
            yield batch | {SHARD: [shard.index] * num_rows(batch)}


def split_by_shard(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Cuts batches where a shard ends; yields its index and its rows, without the mark."""
    for batch in batches:
        start = 0
        for index, rows in groupby(batch[SHARD]):
            stop = start + sum(1 for _ in rows)
            yield index, {name: column[start:stop] for name, column in batch.items() if name != SHARD}
            start = stop


@contextmanager
def prepared_ahead(batches: Iterator[Batch], number: int) -> Iterator[Iterator[Batch]]:
    """Gives the same batches, of which a thread gets up to `number` ready before they are asked for."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(number))

        def take() -> Iterator[Batch]:
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, batches, None))
                yield batch

        try:
            yield take()
        finally:
            thread.shutdown(cancel_futures=True)


def rebatch(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Joins and cuts batches so that all but the last have `size` rows."""
    waiting: Batch = {}
    for batch in batches:
        waiting = {name: waiting.get(name, []) + list(column) for name, column in batch.items()}
        while num_rows(waiting) >= size:
            yield {name: column[:size] for name, column in waiting.items()}
            waiting = {name: column[size:] for name, column in waiting.items()}
    if num_rows(waiting):
        yield waiting


def write_table(path: Path, batches: Iterable[Batch], *, schema: pa.Schema, row_group_size: int) -> None:
    """Writes batches as Parquet in row groups of fixed size; columns that the schema does not name stay behind."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in rebatch(batches, row_group_size):
            columns = [convert_column(batch[name], schema.field(name).type) for name in schema.names]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def convert_column(values: list, kind: pa.DataType) -> pa.Array:
    """A column of a type; what a text column holds besides text becomes text, integers beside floats are rounded."""
    if pa.types.is_string(kind):
        values = [value if value is None or isinstance(value, str) else str(value) for value in values]
    try:
        return pa.array(values, kind)
    except pa.ArrowInvalid:  # Of integers beyond 2 ** 53, where another file of the source has floats.
        return pa.array(values).cast(kind, safe=False)
