"""Runs the reduction of `label_entities` over the filtered shards, on whatever engine and however many machines."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.arguments import LabelArguments
from data_scripts.engine.files import save_arrays
from data_scripts.engine.jobs import Job, Manifest, Steps, one_by_one, single
from data_scripts.engine.row_counts import Totals, sum_manifests
from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.labels.label_entities import (
    Arrays,
    Labels,
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


@dataclass(frozen=True)
class LabelSummary:
    """What the reduction did.

    Attributes:
        entities: As in `entities.parquet`.
        rows_by_shard: Rows of each split, by name of the shard.
        totals: Rows in, out and dropped by reason.
    """

    entities: pa.Table
    rows_by_shard: dict[str, dict[str, int]] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        counted = self.rows_by_shard.values()
        return {split: sum(rows.get(split, 0) for rows in counted) for split in ("train", "validation")}


@dataclass(frozen=True)
class LabelFolders:
    """Where the reduction finds and leaves its files.

    Attributes:
        filtered: Of `filter_entities`.
        counted: Gets the arrays of `Labels`, and a folder for each pass over the shards; named after the build.
        rows: Gets the labelled rows of each shard.
    """

    filtered: Path
    counted: Path
    rows: Path

    def read(self, shard: Shard) -> pa.Table:
        """The filtered rows of a shard."""
        return pq.read_table(self.filtered / f"{shard.name}.parquet")


def label_shards(
    shards: Sequence[Shard], *, folders: LabelFolders, options: LabelArguments, kb: KnowledgeBase
) -> Steps[LabelSummary]:
    """Labels all rows; what was done before is not done again.

    Returns:
        The entities table, row i with label i, ordered by entity_id; and counts of rows. Without any entity that has
        enough images there is nothing to label, and no rows are written.
    """
    counted = yield from count_shards("count_images", count_images, shards, folders=folders)
    write_arrays(folders.counted, **number_entities(counted, min_images=options.min_images_per_entity))
    labels = Labels.open(folders.counted)
    if len(labels.images) == 0:
        return LabelSummary(entities_table(labels, kb))
    if options.max_images_per_entity is not None:
        drawn = yield from count_shards("draw_images", draw_images, shards, folders=folders, options=options)
        write_arrays(folders.counted, **limit_hashes(drawn, labels, max_images=options.max_images_per_entity))
        labels = Labels.open(folders.counted)
    if options.validation_fraction:
        taken = yield from count_shards("count_validation", count_validation, shards, folders=folders, options=options)
        write_arrays(folders.counted, **keep_in_train(taken, labels, min_images=options.min_images_per_entity))
    work = partial(one_by_one, partial(label_shard, folders=folders, options=options))
    name = "label_entities"
    job = Job(name, folders.rows, folders.counted.name, work, stages=(name,), is_short=True)
    yield job, single(shards)
    rows_by_shard = {shard.name: job.manifest(shard)["rows"] for shard in shards}
    return LabelSummary(entities_table(Labels.open(folders.counted), kb), rows_by_shard, sum_manifests(job, shards))


def count_shards(
    name: str,
    count: Callable[..., Arrays],
    shards: Sequence[Shard],
    *,
    folders: LabelFolders,
    options: LabelArguments | None = None,
) -> Steps[Iterator[Arrays]]:
    """Makes arrays of every shard and gives them back, one shard after the other.

    Args:
        count: Takes the table of a shard, and the labels so far if `options` are given.
    """
    work = partial(one_by_one, partial(count_shard, folders=folders, count=count, options=options))
    job = Job(name, folders.counted / name, folders.counted.name, work, suffix=".npz", is_short=True)
    yield job, single(shards)
    return map(read_arrays, map(job.path, shards))


def read_arrays(path: Path) -> Arrays:
    """Reads named arrays."""
    with np.load(path) as arrays:
        return dict(arrays)


def count_shard(
    shard: Shard, path: Path, *, folders: LabelFolders, count: Callable[..., Arrays], options: LabelArguments | None
) -> None:
    """Writes the arrays that `count` makes of a shard."""
    known = {} if options is None else {"labels": Labels.open(folders.counted), "options": options}
    save_arrays(path, **count(folders.read(shard), **known))


def label_shard(shard: Shard, path: Path, *, folders: LabelFolders, options: LabelArguments) -> Manifest:
    """Writes the labelled rows of a shard; returns their numbers."""
    table = folders.read(shard)
    labelled, dropped = label_rows(table, labels=Labels.open(folders.counted), options=options)
    pq.write_table(labelled, path)
    counts = {"rows_in": len(table), "rows_out": len(labelled), "dropped": dropped}
    return {"stages": {"label_entities": counts}, "rows": Counter(labelled["split"].to_pylist())}
