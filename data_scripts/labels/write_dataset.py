"""Writes the published dataset: Parquet files of even size, `entities.parquet`, and the schema that both carry."""

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice, pairwise
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.schema import published_schema
from modeling_mofi.whole_files import write_whole


ROW_GROUP_SIZE = 256
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class OutputFile:
    """One file of the dataset.

    Attributes:
        split: `train` or `validation`.
        index: Of the file in its split.
        total: Files of the split.
        parts: Name of a shard, and first and last (exclusive) of its rows of this split.
    """

    split: str
    index: int
    total: int
    parts: tuple[tuple[str, int, int], ...]

    @property
    def name(self) -> str:
        """As the Hub names shards."""
        return f"{self.split}-{self.index:05d}-of-{self.total:05d}"


@dataclass(frozen=True)
class DatasetWriter:
    """Writes the files of a dataset from what the stages left.

    Attributes:
        scored: Folder of the image phase.
        labelled: Folder of labelled rows.
    """

    scored: Path
    labelled: Path
    knowledge_base: str
    keep_columns: dict[str, pa.DataType]
    build_id: str

    def write(self, file: OutputFile, path: Path) -> None:
        """Writes a file, a row group in memory at a time."""
        schema = with_features(published_schema(self.keep_columns), build_id=self.build_id)
        with pq.ParquetWriter(path, schema) as writer:
            rows = (row for part in file.parts for row in self.rows(file.split, *part))
            while group := list(islice(rows, ROW_GROUP_SIZE)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))

    def rows(self, split: str, shard: str, start: int, stop: int) -> Iterator[dict]:
        """Published rows `start` to `stop` among those of a split in a shard."""
        labelled = pq.read_table(self.labelled / f"{shard}.parquet")
        labelled = labelled.filter(pa.compute.equal(labelled["split"], split)).slice(start, stop - start)
        wanted = {row["row"]: row for row in labelled.to_pylist()}
        columns = ["image_id", "row", "image", "alt_text", *self.keep_columns]
        scored = pq.ParquetFile(self.scored / f"{shard}.parquet")
        for group in range(scored.metadata.num_row_groups):
            rows = scored.read_row_group(group, columns=["row"])["row"].to_pylist()
            kept = [position for position, row in enumerate(rows) if row in wanted]
            if not kept:
                continue
            for pair in scored.read_row_group(group, columns=columns).take(kept).to_pylist():
                label = wanted[pair.pop("row")]
                entities = [self.describe(entity) for entity in label["entities"]]
                yield pair | {"entities": entities, "entity_labels": label["entity_labels"]}

    def describe(self, entity: dict) -> dict:
        """An entity with its name and description."""
        name, description = entity_names(self.knowledge_base, entity["entity_id"])
        return entity | {"name": name, "description": description}


@lru_cache(maxsize=100_000)
def entity_names(knowledge_base: str, entity_id: str) -> tuple[str, str]:
    """Name and description of an entity."""
    kb = open_knowledge_base(knowledge_base)
    rows = kb.rows_of([entity_id])
    return kb.column("name", rows)[0], kb.column("description", rows)[0]


def plan_outputs(rows_by_shard: dict[str, dict[str, int]], *, rows_per_file: int) -> list[OutputFile]:
    """Divides the rows of each split into files, across shards, in order.

    Args:
        rows_by_shard: Number of rows of each split, by name of the shard, ascending.
    """
    files: list[OutputFile] = []
    shards = list(rows_by_shard)
    for split in SPLITS:
        offsets = [0, *accumulate(rows.get(split, 0) for rows in rows_by_shard.values())]
        num_files = -(-offsets[-1] // rows_per_file)
        bounds = [round(i * offsets[-1] / num_files) for i in range(num_files + 1)] if num_files else []
        for index, (first, last) in enumerate(pairwise(bounds)):
            parts = tuple(parts_between(shards, offsets, first, last))
            files.append(OutputFile(split, index, num_files, parts))
    return files


def parts_between(shards: list[str], offsets: list[int], first: int, last: int) -> Iterator[tuple[str, int, int]]:
    """The shards, and rows in them, that rows `first` to `last` of a split come from."""
    position = bisect_right(offsets, first) - 1
    while offsets[position] < last:
        start, stop = max(first, offsets[position]), min(last, offsets[position + 1])
        if start < stop:
            yield shards[position], start - offsets[position], stop - offsets[position]
        position += 1


def with_features(schema: pa.Schema, *, build_id: str) -> pa.Schema:
    """The schema with what `datasets` needs to know that `image` is an image, and the id of the build."""
    features = datasets.Features.from_arrow_schema(schema)
    features["image"] = datasets.Image()
    metadata = {b"huggingface": json.dumps({"info": {"features": features.to_dict()}}, sort_keys=True).encode()}
    return schema.with_metadata(metadata | {b"mofi.build_id": build_id.encode()})


def write_entities(table: pa.Table, path: Path, *, build_id: str) -> None:
    """Writes `entities.parquet` with the id of the build."""
    with write_whole(path) as temporary:
        pq.write_table(table.replace_schema_metadata({b"mofi.build_id": build_id.encode()}), temporary)


def published_rows(data: Path, *, columns: list[str]) -> Iterator[dict]:
    """Rows of a published dataset, a batch in memory at a time."""
    for path in sorted(data.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP_SIZE, columns=columns):
            yield from batch.to_pylist()
