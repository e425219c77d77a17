"""Reads pairs from a dataset on the Hub (or any that `datasets.load_dataset` opens), streaming or not."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets

from data_scripts.schema import Batch, Shard
from data_scripts.sources.parquet import to_python
from data_scripts.sources.records import check_columns
from modeling_mofi.data.dataset_fingerprint import dataset_fingerprint


def plan_hub(
    name: str,
    *,
    config_name: str | None,
    split: str,
    revision: str | None,
    streaming: bool,
    rows_per_shard: int,
    names: list[str],
) -> list[Shard]:
    """Cuts a dataset into row ranges, or, when streaming, into the files it consists of.

    Raises:
        ValueError: If it lacks a column.
    """
    options = {"config_name": config_name, "split": split, "revision": revision, "streaming": streaming}
    data = open_dataset(name, options)
    if data.column_names is not None:
        check_columns(names, list(data.column_names), path=name)
    if streaming:
        options["num_shards"] = max(1, data.num_shards)
        fingerprint = f"{name}@{revision} {data.info.download_checksums or ''}"
        return [
            Shard(index, "hub", name, fingerprint=fingerprint, options=options)
            for index in range(options["num_shards"])
        ]
    fingerprint = dataset_fingerprint(data)
    return [
        Shard(index, "hub", name, start, min(start + rows_per_shard, len(data)), fingerprint, options)
        for index, start in enumerate(range(0, len(data), rows_per_shard))
    ]


def open_dataset(name: str, options: dict[str, Any]) -> datasets.Dataset | datasets.IterableDataset:
    """Opens one split once per process; images stay encoded, so that one bad image cannot end the iteration."""
    return open_once(name, json.dumps(options))


@lru_cache(maxsize=4)
def open_once(name: str, options_json: str) -> datasets.Dataset | datasets.IterableDataset:
    """Opens one split."""
    options = json.loads(options_json)
    if is_saved_dataset(name):
        data = load_saved(name, split=options["split"])
    else:
        data = datasets.load_dataset(
            name,
            options["config_name"],
            split=options["split"],
            revision=options["revision"],
            streaming=options["streaming"],
        )
    for column, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
    return data


def load_saved(folder: str, *, split: str) -> datasets.Dataset:
    """Opens a folder of `Dataset.save_to_disk`, or a split of one of `DatasetDict`.

    Raises:
        ValueError: If a file of it is damaged or missing, or there is no row or no such split.
    """
    try:
        data = datasets.load_from_disk(folder)
    except Exception as error:  # Of almost any type; an IndexError if there is no row.
        message = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{folder} is no whole folder of `save_to_disk`, or has no row ({message}); save or copy it again"
        ) from None
    if not isinstance(data, datasets.DatasetDict):
        return data
    if split not in data:
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(data)}. Set --hub_split.")
    return data[split]


def is_saved_dataset(name: str) -> bool:
    """Whether a path is a folder of `Dataset.save_to_disk`."""
    return any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json"))


def read_hub(
    shard: Shard, *, names: list[str], batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields row positions within the shard and columns; with `rows` (ascending), those rows alone.

    Raises:
        ValueError: If a column is missing.
    """
    data = open_dataset(shard.path, shard.options)
    if data.column_names is not None:
        check_columns(names, list(data.column_names), path=shard.path)
        data = data.select_columns(names)
    if shard.options["streaming"]:
        data = data.shard(num_shards=shard.options["num_shards"], index=shard.index)
        yield from read_stream(data, names, batch_size=batch_size, rows=rows)
        return
    wanted = list(range(shard.stop - shard.start)) if rows is None else rows
    for first in range(0, len(wanted), batch_size):
        positions = wanted[first : first + batch_size]
        table = data.select([shard.start + position for position in positions]).with_format("arrow")[:]
        yield positions, {name: to_python(table[name]) for name in names}


def read_stream(
    data: datasets.IterableDataset, names: list[str], *, batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of a streaming shard."""
    wanted = None if rows is None else set(rows)
    position = 0
    for table in data.with_format("arrow").iter(batch_size=batch_size):
        kept = [i for i in range(len(table)) if wanted is None or position + i in wanted]
        if kept:
            part = table.take(kept)
            yield [position + i for i in kept], {name: to_python(part[name]) for name in names}
        position += len(table)
