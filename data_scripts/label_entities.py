"""Counts entities over all rows, drops rare ones, numbers the rest and divides the rows into splits.

A reduction over the whole data set, not a batch stage: it reads the small files of `filter_entities`, in the order of
the shards, and holds a few numbers per entity and none per row.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from data_scripts.knowledge_base import KnowledgeBase
from data_scripts.schema import ENTITIES_TABLE, labelled_schema


# One table per shard, with columns image_id, row, entities.
ReadTables = Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True)
class LabelOptions:
    """Which entities and how many images of each.

    Attributes:
        min_images: Entities with fewer images are dropped (before the cap and the split).
        max_images: Entities with more keep this many, chosen by a hash; None keeps all.
        validation_fraction: Of the rows; a row whose entities would be left with fewer than `min_images` in train
            stays there.
        seed: Of the hashes.
    """

    min_images: int = 5
    max_images: int | None = None
    validation_fraction: float = 0.0
    seed: int = 0


@dataclass
class LabelSummary:
    """What the reduction did."""

    entities: pa.Table
    rows: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


def label_entities(
    read_tables: ReadTables, *, kb: KnowledgeBase, options: LabelOptions, write: Callable[[int, pa.Table], None]
) -> LabelSummary:
    """Labels all rows.

    Args:
        read_tables: Gives the shards' tables from the start each time it is called.
        write: Takes the position of a shard and its labelled rows.

    Returns:
        The entities table, row i with label i, ordered by entity_id; and counts of rows.
    """
    counts = count_entities(read_tables())
    label_of = number_entities(counts, min_images=options.min_images)
    images = np.array([counts[entity_id] for entity_id in label_of], dtype=np.int64)
    sampler = Sampler(images, options)
    kept_counts = np.zeros(len(label_of), dtype=np.int64)
    summary = LabelSummary(ENTITIES_TABLE.empty_table(), {"train": 0, "validation": 0}, {})
    for position, table in enumerate(read_tables()):
        rows = list(label_rows(table, label_of, sampler, dropped=summary.dropped))
        for row in rows:
            summary.rows[row["split"]] += 1
            kept_counts[row["entity_labels"]] += 1
        write(position, pa.Table.from_pylist(rows, schema=labelled_schema()))
    summary.entities = entities_table(list(label_of), kept_counts, kb)
    return summary


def count_entities(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Images per entity; an entity counts once in a row."""
    counts: dict[str, int] = {}
    for table in tables:
        flat = pa.compute.list_flatten(table["entities"])
        for found in pa.compute.value_counts(pa.compute.struct_field(flat, "entity_id")).to_pylist():
            counts[found["values"]] = counts.get(found["values"], 0) + found["counts"]
    return counts


def number_entities(counts: dict[str, int], *, min_images: int) -> dict[str, int]:
    """Numbers the entities that have enough images, in the order of their ids: counts and shards do not matter."""
    kept = sorted(entity_id for entity_id, count in counts.items() if count >= min_images)
    return {entity_id: label for label, entity_id in enumerate(kept)}


class Sampler:
    """Decides, row by row in a fixed order, which of an entity's images stay and which row goes to validation."""

    def __init__(self, images: np.ndarray, options: LabelOptions) -> None:
        self.options = options
        self.room = images.copy() if options.max_images is None else np.minimum(images, options.max_images)
        self.in_train = self.room.copy()
        # A little more than the share that fills the cap: hashing alone would often stop short of it.
        share = np.ones(len(images))
        if options.max_images is not None:
            share = (options.max_images + 4 * np.sqrt(options.max_images)) / np.maximum(images, 1)
        self.share = share

    def takes(self, image_id: str, label: int) -> bool:
        """Whether an image is among those of an entity that stay."""
        if self.options.max_images is None or self.share[label] >= 1 and self.room[label] > 0:
            self.room[label] -= 1
            return True
        if self.room[label] > 0 and hash_fraction(f"{self.options.seed} {label} {image_id}") < self.share[label]:
            self.room[label] -= 1
            return True
        return False

    def split_of(self, image_id: str, labels: list[int]) -> str:
        """The split of a row; rare entities stay in train."""
        fraction = self.options.validation_fraction
        if fraction == 0 or hash_fraction(f"{self.options.seed} {image_id}") >= fraction:
            return "train"
        if any(self.in_train[label] <= self.options.min_images for label in labels):
            return "train"
        self.in_train[labels] -= 1
        return "validation"


def label_rows(
    table: pa.Table, label_of: dict[str, int], sampler: Sampler, *, dropped: dict[str, int]
) -> Iterator[dict[str, object]]:
    """Rows of a shard that keep at least one entity."""
    for image_id, row, entities in zip(
        *(table[name].to_pylist() for name in ("image_id", "row", "entities")), strict=True
    ):
        numbered = [entity for entity in entities if entity["entity_id"] in label_of]
        if not numbered:
            dropped["entity too rare"] = dropped.get("entity too rare", 0) + 1
            continue
        kept = [entity for entity in numbered if sampler.takes(image_id, label_of[entity["entity_id"]])]
        if not kept:
            dropped["over the cap"] = dropped.get("over the cap", 0) + 1
            continue
        labels = [label_of[entity["entity_id"]] for entity in kept]
        yield {"row": row, "split": sampler.split_of(image_id, labels), "entities": kept, "entity_labels": labels}


def hash_fraction(key: str) -> float:
    """A number in [0, 1) for a string, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest(), "big") / 2**64


def entities_table(entity_ids: list[str], counts: np.ndarray, kb: KnowledgeBase) -> pa.Table:
    """`entities.parquet`: row i is the entity with label i."""
    rows = kb.rows_of(entity_ids).tolist()
    return pa.table(
        {
            "entity_label": np.arange(len(entity_ids), dtype=np.int64),
            "entity_id": entity_ids,
            "name": kb.column("name", rows),
            "description": kb.column("description", rows),
            "count": counts,
        },
        schema=ENTITIES_TABLE,
    )
