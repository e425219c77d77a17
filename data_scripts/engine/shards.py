"""Runs the stages of a phase over shards and commits each shard by a manifest, so that a build can resume.

The unit is a shard. Its output has a fixed name, is written under another one and renamed when whole; its manifest is
written last. Done means a manifest with the right settings and a file of the right size: a crash costs the shards at
work, and running again writes the same bytes.

Neighbouring shards may run as a group, whose batches go on from one shard into the next: small shards then fill a
GPU's batches too. A group depends on the shards' numbers of rows alone, and is run as a whole or not at all, so that
whoever runs it, and after whatever interruption, each image meets the same batch.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.engine.files import hash_file
from data_scripts.schema import DROP_REASON, NOTE, Batch, Shard, drop_rows
from modeling_mofi.whole_files import try_read_json, write_json, write_whole


logger = logging.getLogger(__name__)

# Column with the index of the shard that a row belongs to; no source has one of that name.
SHARD = "__shard__"
Group = tuple[Shard, ...]


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
class Phase:
    """Stages that run one after another, with one output file for each shard.

    Attributes:
        name: Of the last stage; also names the folder.
        folder: Where the shards' files go.
        read: Gives the batches of a shard.
        steps: The stages.
        schema: Columns of the output.
        config_hash: Of everything that the output depends on.
        versions: Of the libraries that the output depends on.
        row_group_size: Rows per row group of the output.
        uses_gpu: Whether a worker should have a GPU to itself, where there are some.
    """

    name: str
    folder: Path
    read: Callable[[Shard], Iterator[Batch]]
    steps: tuple[Step, ...]
    schema: pa.Schema
    config_hash: str
    versions: dict[str, str] = field(default_factory=dict)
    row_group_size: int = 10_000
    uses_gpu: bool = False

    def data_path(self, index: int) -> Path:
        """Output file of a shard."""
        return self.folder / f"{index:06d}.parquet"

    def manifest_path(self, index: int) -> Path:
        """Manifest of a shard."""
        return self.folder / f"{index:06d}.json"


def single_shards(shards: Sequence[Shard]) -> list[Group]:
    """Every shard as a group of its own."""
    return [(shard,) for shard in shards]


def group_shards(shards: Sequence[Shard], *, before: Phase, min_rows: int) -> list[Group]:
    """Joins neighbouring shards until the phase before has left a group so many rows."""
    groups: list[list[Shard]] = [[]]
    waiting = 0
    for shard in shards:
        groups[-1].append(shard)
        waiting += rows_out(before, shard.index)
        if waiting >= min_rows:
            groups.append([])
            waiting = 0
    return [tuple(group) for group in groups if group]


def rows_out(phase: Phase, index: int) -> int:
    """Rows of a shard that is done."""
    return pq.read_metadata(phase.data_path(index)).num_rows


def run_group(phase: Phase, group: Group) -> None:
    """Runs the stages of a phase on a group of shards and commits the output of each."""
    counter = RowCounter(phase, group)
    with ExitStack() as stack:
        batches = counter.count_input(read_group(phase, group))
        for step in phase.steps:
            batches = rebatch(batches, step.batch_size) if step.batch_size else batches
            if step.lookahead:
                batches = stack.enter_context(prepared_ahead(batches, step.lookahead))
            batches = counter.apply(step, batches)
        found = groupby(split_by_shard(batches), key=lambda part: part[0])
        parts = next(found, None)
        for shard in group:
            if parts is not None and parts[0] == shard.index:
                commit_shard(phase, shard, (batch for _, batch in parts[1]), counter)
                parts = next(found, None)
            else:
                commit_shard(phase, shard, (), counter)


def read_group(phase: Phase, group: Group) -> Iterator[Batch]:
    """Batches of one shard after the other, their rows marked with it."""
    for shard in group:
        for batch in phase.read(shard):
            yield batch | {SHARD: [shard.index] * num_rows(batch)}


def split_by_shard(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Cuts batches where a shard ends; yields its index and its rows, without the mark."""
    for batch in batches:
        start = 0
        for index, rows in groupby(batch[SHARD]):
            stop = start + sum(1 for _ in rows)
            yield index, {name: column[start:stop] for name, column in batch.items() if name != SHARD}
            start = stop


def commit_shard(phase: Phase, shard: Shard, batches: Iterable[Batch], counter: "RowCounter") -> None:
    """Writes the output of a shard, and its manifest when that is whole."""
    path = phase.data_path(shard.index)
    phase.manifest_path(shard.index).unlink(missing_ok=True)
    with write_whole(path) as temporary:
        write_table(temporary, batches, schema=phase.schema, row_group_size=phase.row_group_size)
    manifest = {
        "phase": phase.name,
        "shard": shard.index,
        "config_hash": phase.config_hash,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "versions": phase.versions,
        "stages": counter.stages[shard.index],
        "notes": dict(sorted(counter.notes[shard.index].items())),
    }
    write_json(phase.manifest_path(shard.index), manifest)


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


class RowCounter:
    """Counts rows in, rows out and reasons, by shard and stage, as batches flow through."""

    def __init__(self, phase: Phase, group: Group) -> None:
        self.stages = {shard.index: {step.name: empty_counts() for step in phase.steps} for shard in group}
        self.notes: dict[int, Counter[str]] = {shard.index: Counter() for shard in group}

    def count_input(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on; counts the notes on rows that were changed but kept."""
        for batch in batches:
            for index, note in zip(batch[SHARD], batch.pop(NOTE, ()), strict=False):
                if note:
                    self.notes[index][note] += 1
            yield batch

    def apply(self, step: Step, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Runs a stage over batches and removes the rows it dropped."""
        for batch in batches:
            self.count(step, "rows_in", batch)
            batch = step.function(batch)
            for index, reason in zip(batch[SHARD], batch.get(DROP_REASON, ()), strict=False):
                if reason:
                    dropped = self.stages[index][step.name]["dropped"]
                    dropped[reason] = dropped.get(reason, 0) + 1
            batch, _ = drop_rows(batch)
            self.count(step, "rows_out", batch)
            if num_rows(batch):
                yield batch

    def count(self, step: Step, name: str, batch: Batch) -> None:
        """Adds the rows of a batch to the counts of their shards."""
        for index, rows in Counter(batch[SHARD]).items():
            self.stages[index][step.name][name] += rows


def empty_counts() -> dict[str, Any]:
    """Counts of a stage that has seen nothing."""
    return {"rows_in": 0, "rows_out": 0, "dropped": {}}


def num_rows(batch: Batch) -> int:
    """Rows of a batch."""
    return len(next(iter(batch.values()), ()))


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
    """A column of a type; what a text column holds besides text becomes text."""
    if pa.types.is_string(kind):
        values = [value if value is None or isinstance(value, str) else str(value) for value in values]
    return pa.array(values, kind)


def read_manifest(phase: Phase, index: int) -> dict[str, Any] | None:
    """The manifest of a shard that is done; None if it is not."""
    manifest = try_read_json(phase.manifest_path(index))
    path = phase.data_path(index)
    if manifest is None or manifest["config_hash"] != phase.config_hash or not path.is_file():
        return None
    return manifest if path.stat().st_size == manifest["bytes"] else None


def is_done(phase: Phase, shard: Shard) -> bool:
    """Whether a shard has a valid manifest, whoever wrote it."""
    return read_manifest(phase, shard.index) is not None


def sum_manifests(phase: Phase, shards: Sequence[Shard]) -> dict[str, Any]:
    """Rows in, out and dropped of all shards, by stage; and the notes."""
    stages: dict[str, dict[str, Any]] = {step.name: empty_counts() | {"dropped": Counter()} for step in phase.steps}
    notes: Counter[str] = Counter()
    for shard in shards:
        manifest = read_manifest(phase, shard.index)
        assert manifest is not None, f"shard {shard.index} of {phase.name} is not done"
        notes.update(manifest["notes"])
        for name, counts in manifest["stages"].items():
            stages[name]["rows_in"] += counts["rows_in"]
            stages[name]["rows_out"] += counts["rows_out"]
            stages[name]["dropped"].update(counts["dropped"])
    for counts in stages.values():
        counts["dropped"] = dict(counts["dropped"].most_common())
    return {"stages": stages, "notes": dict(notes)}


def log_stages(totals: dict[str, Any], *, seconds: float) -> None:
    """One line a stage: rows in, rows out, reasons."""
    for name, counts in totals["stages"].items():
        reasons = "; ".join(f"{reason} {count:,}" for reason, count in counts["dropped"].items())
        logger.info(
            "%s: %s rows in, %s out%s",
            name,
            f"{counts['rows_in']:,}",
            f"{counts['rows_out']:,}",
            f" ({reasons})" if reasons else "",
        )
    for note, count in totals["notes"].items():
        logger.info("note: %s, %s rows", note, f"{count:,}")
    logger.info("%s took %.1f s", " + ".join(totals["stages"]), seconds)
