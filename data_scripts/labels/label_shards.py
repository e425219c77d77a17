"""Runs the reduction of `label_entities` over the filtered shards, on whatever engine and however many machines."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.arguments import LabelArguments
from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.labels.label_entities import (
    Arrays,
    Labels,
    LabelSummary,
    count_images,
    count_validation,
    draw_images,
    entities_table,
    keep_in_train,
    label_rows,
    limit_hashes,
    number_entities,
    write_arrays,
)
from data_scripts.schema import Shard
from modeling_mofi.whole_files import read_json, try_read_json, write_json, write_whole


# Calls a job on every shard that its `is_done` does not know of, and returns when all are done.
RunJob = Callable[["ShardJob", Sequence[Shard]], None]


@dataclass(frozen=True)
class ShardJob:
    """What is done to every filtered shard in one pass; a call does it and writes one file.

    Attributes:
        filtered: Folder of `filter_entities`.
        folder: Of the labels; the pass has a folder of its own in it.
        name: Of the pass.
    """

    filtered: Path
    folder: Path
    name: str

    def path(self, shard: Shard) -> Path:
        """The file that is written last."""
        return self.folder / self.name / f"{shard.index:06d}.npz"

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard is done."""
        return self.path(shard).is_file()

    def table(self, shard: Shard) -> pa.Table:
        """The rows of a shard."""
        return pq.read_table(self.filtered / f"{shard.index:06d}.parquet")


@dataclass(frozen=True)
class CountShard(ShardJob):
    """Writes the arrays that `count` makes of a shard.

    Attributes:
        count: Takes the table, and the labels so far if `options` are given.
    """

    count: Callable[..., Arrays]
    options: LabelArguments | None = None

    def __call__(self, shard: Shard) -> None:
        known = {} if self.options is None else {"labels": Labels.open(self.folder), "options": self.options}
        arrays = self.count(self.table(shard), **known)
        with write_whole(self.path(shard)) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def counted(self, shards: Sequence[Shard]) -> Iterator[Arrays]:
        """The arrays of one shard after the other."""
        for shard in shards:
            with np.load(self.path(shard)) as arrays:
                yield dict(arrays)


@dataclass(frozen=True)
class LabelShard(ShardJob):
    """Writes the labelled rows of a shard, and a manifest with their numbers.

    Attributes:
        options: As for the passes before.
        rows: Folder of the rows.
        build_id: What the rows depend on; those of another build are written again.
    """

    options: LabelArguments
    rows: Path
    build_id: str

    def path(self, shard: Shard) -> Path:
        return self.rows / f"{shard.index:06d}.json"

    def is_done(self, shard: Shard) -> bool:
        manifest = try_read_json(self.path(shard))
        return manifest is not None and manifest["build_id"] == self.build_id

    def __call__(self, shard: Shard) -> None:
        labelled, dropped = label_rows(self.table(shard), labels=Labels.open(self.folder), options=self.options)
        self.path(shard).unlink(missing_ok=True)
        with write_whole(self.path(shard).with_suffix(".parquet")) as temporary:
            pq.write_table(labelled, temporary)
        counts = {"rows": Counter(labelled["split"].to_pylist()), "dropped": dropped}
        write_json(self.path(shard), counts | {"build_id": self.build_id})


def label_shards(
    shards: Sequence[Shard],
    *,
    filtered: Path,
    folder: Path,
    rows: Path,
    options: LabelArguments,
    kb: KnowledgeBase,
    run: RunJob,
) -> LabelSummary:
    """Labels all rows; what was done before is not done again.

    Args:
        filtered: Folder of `filter_entities`.
        folder: Gets the arrays of `Labels`, and a folder for each pass over the shards; its name is that of the build.
        rows: Gets the labelled rows of each shard.
        run: Calls a job on shards and returns when they are done.

    Returns:
        The entities table, row i with label i, ordered by entity_id; and counts of rows. Without any entity that has
        enough images there is nothing to label, and no rows are written.
    """

    def reduce(name: str, count: Callable[..., Arrays], reduce_arrays: Callable[..., Arrays], **known: object) -> None:
        job = CountShard(filtered, folder, name, count, **known)
        run(job, shards)
        write_arrays(folder, **reduce_arrays(job.counted(shards)))

    reduce("count_images", count_images, partial(number_entities, min_images=options.min_images_per_entity))
    labels = Labels.open(folder)
    if len(labels.images) == 0:
        return LabelSummary(entities_table(labels, kb))
    if options.max_images_per_entity is not None:
        reduce(
            "draw_images",
            draw_images,
            partial(limit_hashes, labels=labels, max_images=options.max_images_per_entity),
            options=options,
        )
        labels = Labels.open(folder)
    if options.validation_fraction:
        reduce(
            "count_validation",
            count_validation,
            partial(keep_in_train, labels=labels, min_images=options.min_images_per_entity),
            options=options,
        )
    job = LabelShard(filtered, folder, "label_entities", options, rows, build_id=folder.name)
    run(job, shards)
    counts = {shard.index: read_json(job.path(shard)) for shard in shards}
    dropped: Counter[str] = Counter()
    for count in counts.values():
        dropped.update(count["dropped"])
    rows_by_shard = {index: count["rows"] for index, count in counts.items()}
    return LabelSummary(entities_table(Labels.open(folder), kb), rows_by_shard, dict(dropped))
