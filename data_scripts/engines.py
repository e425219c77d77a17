"""Runs stages over shards: in this process, in several, or on Ray; commits each shard by a manifest, and resumes.

The unit is a shard. A shard's output has a fixed name, is written under another one and renamed when whole; its
manifest is written last. Done means a manifest with the right settings and a file of the right size: a crash costs one
shard, and running again writes the same bytes. An engine knows no stage, a stage knows no engine.
"""

import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_scripts.files import hash_file, try_read_json, write_json, write_whole
from data_scripts.schema import NOTE, Batch, Shard, drop_rows


logger = logging.getLogger(__name__)

ENGINES = ("local", "ray")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Step:
    """A stage with its arguments bound.

    Attributes:
        name: Of the stage, for counts and logs.
        function: Batch to batch.
        batch_size: Rows the stage wants at once; batches are joined and cut to that. None takes them as they come.
    """

    name: str
    function: Callable[[Batch], Batch]
    batch_size: int | None = None


@dataclass(frozen=True)
class Phase:
    """Stages that run one after another on a shard, with one output file.

    Attributes:
        name: Of the last stage; also names the folder.
        folder: Where the shards' files go.
        read: Gives the batches of a shard.
        steps: The stages.
        schema: Columns of the output.
        config_hash: Of everything that the output depends on.
        versions: Of the libraries that the output depends on.
        row_group_size: Rows per row group of the output.
        uses_gpu: Whether a worker should have a GPU to itself, where a cluster has some.
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


class Engine:
    """How to run; a context that ends its workers.

    Args:
        kind: `local` or `ray`.
        num_processes: Workers of `local`, kept from phase to phase; with 1 there is no other process.
        num_threads: Threads a worker's PyTorch may use; the same everywhere, or sums would round differently.
        preload: Modules that workers need; imported once, and their memory shared, where the system can fork.
    """

    def __init__(
        self, kind: str = "local", *, num_processes: int = 1, num_threads: int = 1, preload: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self.num_processes = num_processes
        self.num_threads = num_threads
        self.preload = tuple(preload)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def run(self, function: Callable[[Item], Any], items: Sequence[Item], *, uses_gpu: bool = False) -> Iterator[None]:
        """Calls a function on every item, in any order; yields once per finished item.

        Raises:
            RuntimeError: If a worker died.
            Exception: The first one that an item raised.
        """
        task = partial(run_limited, function, num_threads=self.num_threads)
        if self.kind == "ray":
            from data_scripts.ray_engine import run_on_ray

            yield from run_on_ray(task, items, uses_gpu=uses_gpu)
        elif self.num_processes > 1 and len(items) > 1:
            yield from self.run_in_pool(task, items)
        else:
            for item in items:
                yield task(item)

    def run_in_pool(self, task: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[None]:
        """Calls a function on every item in the worker processes."""
        if self._pool is None:
            # A plain fork would copy the locks of threads that do not exist in the child.
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload(list(self.preload))
            self._pool = ProcessPoolExecutor(self.num_processes, mp_context=context)
        futures = [self._pool.submit(task, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker process died, most often for want of memory. Give fewer --num_processes or a smaller "
                "--batch_size and run again; finished shards stay."
            ) from None
        finally:
            # What waits is given up; what is at work is finished and committed, so that an error loses nothing.
            wait([future for future in futures if not future.cancel()])


def run_phase(phase: Phase, shards: Sequence[Shard], *, engine: Engine) -> None:
    """Runs the shards that are not done.

    Raises:
        Exception: Whatever a shard raised; the shards that were done stay done.
    """
    pending = [shard for shard in shards if read_manifest(phase, shard.index) is None]
    if len(pending) < len(shards):
        logger.info("%s: %d of %d shards are already there", phase.name, len(shards) - len(pending), len(shards))
    run_tasks(partial(run_shard, phase), pending, engine=engine, name=phase.name, uses_gpu=phase.uses_gpu)


def run_tasks(
    function: Callable[[Item], Any], items: Sequence[Item], *, engine: Engine, name: str, uses_gpu: bool = False
) -> None:
    """Calls a function on every item, in any order, with a progress bar."""
    done = engine.run(function, items, uses_gpu=uses_gpu)
    for _ in tqdm(done, total=len(items), desc=name, unit="shard", disable=len(items) < 2):
        pass


def run_limited(function: Callable[[Item], Any], item: Item, *, num_threads: int) -> None:
    """Calls a function with the number of threads of PyTorch fixed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Whoever needs PyTorch has imported it by now; the others are spared the seconds.
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    function(item)


def run_shard(phase: Phase, shard: Shard) -> None:
    """Runs the stages of a phase on one shard and commits its output."""
    counter = RowCounter()
    batches = counter.count_input(phase.read(shard))
    for step in phase.steps:
        batches = counter.apply(step, rebatch(batches, step.batch_size) if step.batch_size else batches)
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
        "stages": counter.stages,
        "notes": dict(sorted(counter.notes.items())),
    }
    write_json(phase.manifest_path(shard.index), manifest)


class RowCounter:
    """Counts rows in, rows out and reasons, stage by stage, as batches flow through."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Any]] = {}
        self.notes: Counter[str] = Counter()

    def count_input(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on; counts the notes on rows that were changed but kept."""
        for batch in batches:
            self.notes.update(note for note in batch.pop(NOTE, ()) if note)
            yield batch

    def apply(self, step: Step, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Runs a stage over batches."""
        counts = self.stages.setdefault(step.name, {"rows_in": 0, "rows_out": 0, "dropped": {}})
        return self.apply_counted(step, batches, counts)

    def apply_counted(self, step: Step, batches: Iterable[Batch], counts: dict[str, Any]) -> Iterator[Batch]:
        """Runs a stage over batches and removes the rows it dropped."""
        for batch in batches:
            counts["rows_in"] += num_rows(batch)
            batch, reasons = drop_rows(step.function(batch))
            for reason in reasons:
                counts["dropped"][reason] = counts["dropped"].get(reason, 0) + 1
            counts["rows_out"] += num_rows(batch)
            if num_rows(batch):
                yield batch


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


def unfinished_shards(phase: Phase, shards: Sequence[Shard]) -> list[int]:
    """Shards without a valid manifest, for example those of other machines that are still at work."""
    return [shard.index for shard in shards if read_manifest(phase, shard.index) is None]


def sum_manifests(phase: Phase, shards: Sequence[Shard]) -> dict[str, Any]:
    """Rows in, out and dropped of all shards, by stage; and the notes."""
    stages: dict[str, dict[str, Any]] = {
        step.name: {"rows_in": 0, "rows_out": 0, "dropped": Counter()} for step in phase.steps
    }
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


def wait_for_shards(phase: Phase, shards: Sequence[Shard], *, timeout_seconds: float) -> list[int]:
    """Waits for other machines; returns the shards still missing when the time is up."""
    deadline = time.monotonic() + timeout_seconds
    while (missing := unfinished_shards(phase, shards)) and time.monotonic() < deadline:
        time.sleep(min(5.0, max(0.1, deadline - time.monotonic())))
    return missing
