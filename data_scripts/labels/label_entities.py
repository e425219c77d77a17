"""Counts entities over all rows, drops rare ones, numbers the rest and divides the rows into splits.

A reduction over the whole dataset, not a batch stage. Every shard is mapped to a few small arrays, the arrays of all
shards are reduced to a few numbers per entity, and these decide about a row without a look at any other row: shards
may be labelled in any order and by any number of processes and machines, and always in the same way.

    count_images        ->  number_entities     which entities have enough images, numbered by their ids
    draw_images         ->  limit_hashes        of an entity with too many, the images with the smallest hashes stay
    count_validation    ->  keep_in_train       entities of which a validation split would leave too few images
    label_rows                                  the labelled rows
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_scripts.arguments import LabelArguments
from data_scripts.engine.files import write_array
from data_scripts.knowledge_base.store import KnowledgeBase, find_sorted
from data_scripts.schema import ENTITIES_TABLE, labeled_schema


# A little more and less than the share of hashes that fills the cap; beyond six deviations nothing is ever found.
DEVIATIONS = 6
ALL_HASHES = 2**64 - 1

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Labels:
    """What decides about the rows, memory-mapped from a folder; what is not written yet lets everything pass.

    Attributes:
        entity_ids: UTF-8, ascending; row i has label i, [C].
        images: Images of each entity, before the cap, [C].
        max_hashes: Largest hash of an image that stays, uint64 [C].
        kept: Images of each entity, after the cap, [C].
        stays_in_train: Whether the rows of an entity stay in train, [C].
    """

    entity_ids: np.ndarray
    images: np.ndarray
    max_hashes: np.ndarray
    kept: np.ndarray
    stays_in_train: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "Labels":
        """Maps the arrays that are there."""
        entity_ids, images = open_array(folder / "entity_ids.npy"), open_array(folder / "images.npy")
        everything = {
            "max_hashes": np.broadcast_to(np.uint64(ALL_HASHES), len(images)),
            "kept": images,
            "stays_in_train": np.broadcast_to(np.False_, len(images)),
        }
        found = {name: open_array(folder / f"{name}.npy") for name in everything if has_array(folder, name)}
        return cls(entity_ids, images, **everything | found)

    def of(self, entity_ids: Iterable[str]) -> np.ndarray:
        """Labels of entity ids; -1 for an entity that was dropped."""
        return find_sorted(self.entity_ids, map(str.encode, entity_ids))


def has_array(folder: Path, name: str) -> bool:
    """Whether an array was written."""
    return (folder / f"{name}.npy").is_file()


def open_array(path: Path) -> np.ndarray:
    """Maps an array; an empty one cannot be mapped and is read."""
    return np.load(path, mmap_mode="r" if path.stat().st_size > 256 else None)


def write_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """Writes arrays for `Labels`."""
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)


# Entities that have enough images


def count_images(table: pa.Table) -> Arrays:
    """Images per entity of a shard; an entity counts once in a row."""
    counts = pc.value_counts(pc.struct_field(pc.list_flatten(table["entities"]), "entity_id"))
    ids = [entity_id.encode() for entity_id in counts.field("values").to_pylist()]
    return {"entity_ids": np.array(ids, dtype=np.bytes_), "images": counts.field("counts").to_numpy()}


def number_entities(counted: Iterable[Arrays], *, min_images: int) -> Arrays:
    """Numbers the entities that have enough images, in the order of their ids: counts and shards do not matter."""
    totals: dict[bytes, int] = {}
    for arrays in counted:
        for entity_id, count in zip(arrays["entity_ids"].tolist(), arrays["images"].tolist(), strict=True):
            totals[entity_id] = totals.get(entity_id, 0) + count
    kept = sorted(entity_id for entity_id, count in totals.items() if count >= min_images)
    images = np.array([totals[entity_id] for entity_id in kept], dtype=np.int64)
    return {"entity_ids": np.array(kept, dtype=np.bytes_), "images": images}


# Images that stay when an entity has too many


def draw_images(table: pa.Table, *, labels: Labels, options: LabelArguments) -> Arrays:
    """Hashes near the limit of the images of capped entities of a shard, and how many lie below them."""
    rows = FlatRows.of(table, labels, seed=options.seed)
    capped = rows.capped(labels, options)
    drawn, hashes = rows.labels[capped], rows.image_hashes(capped)
    low, high = hash_window(labels.images[drawn], max_images=options.max_images_per_entity)
    near = (hashes >= low) & (hashes < high)
    below, num_below = np.unique(drawn[hashes < low], return_counts=True)
    return {"labels": drawn[near], "hashes": hashes[near], "below": below, "num_below": num_below}


def hash_window(images: np.ndarray, *, max_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds between which the hash of the last image that stays is found, uint64 like `images`."""
    spread = DEVIATIONS * np.sqrt(max_images)
    shares = [np.clip((max_images + side * spread) / np.maximum(images, 1), 0, 1) for side in (-1, 1)]
    low, high = (np.minimum(share * 2.0**64, 2.0**64 - 2048).astype(np.uint64) for share in shares)
    return low, high


def limit_hashes(drawn: Iterable[Arrays], labels: Labels, *, max_images: int) -> Arrays:
    """The largest hash that keeps at most `max_images` images of each entity, and how many it keeps."""
    parts = list(drawn)
    below = np.zeros(len(labels.images), dtype=np.int64)
    for part in parts:
        below[part["below"]] += part["num_below"]
    owner = np.concatenate([part["labels"] for part in parts])
    hashes = np.concatenate([part["hashes"] for part in parts])
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    low, _ = hash_window(labels.images, max_images=max_images)
    max_hashes, kept = np.full(len(below), ALL_HASHES, dtype=np.uint64), np.array(labels.images)
    edges = np.searchsorted(owner, np.arange(len(below) + 1))
    for label in np.flatnonzero(labels.images > max_images):
        found = hashes[edges[label] : edges[label + 1]]
        room = min(len(found), max(0, max_images - int(below[label])))
        # Rows of one image id have one hash: all of them stay, or none.
        while 0 < room < len(found) and found[room] == found[room - 1]:
            room -= 1
        max_hashes[label] = found[room - 1] if room else max(int(low[label]), 1) - 1
        kept[label] = below[label] + room
    return {"max_hashes": max_hashes, "kept": kept}


# Entities that are too rare for a validation split


def count_validation(table: pa.Table, *, labels: Labels, options: LabelArguments) -> Arrays:
    """Images per entity of a shard that the split would take."""
    rows = FlatRows.of(table, labels, seed=options.seed)
    taken = rows.kept(labels, options) & rows.is_drawn(options)[rows.owner]
    found, images = np.unique(rows.labels[taken], return_counts=True)
    return {"labels": found, "images": images}


def keep_in_train(counted: Iterable[Arrays], labels: Labels, *, min_images: int) -> Arrays:
    """Marks the entities of which the split would leave too few images in train."""
    left = np.array(labels.kept)
    for arrays in counted:
        left[arrays["labels"]] -= arrays["images"]
    return {"stays_in_train": left < min_images}


# Rows


@dataclass(frozen=True)
class FlatRows:
    """The entities of a shard's rows in one sequence.

    Attributes:
        hashes: Of the rows' image ids, uint64 [R].
        entities: Struct array, [K].
        owner: Row of each entity, ascending, [K].
        labels: Label of each entity, -1 if it was dropped, [K].
    """

    hashes: np.ndarray
    entities: pa.StructArray
    owner: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, labels: Labels, *, seed: int) -> "FlatRows":
        """Flattens a filtered shard."""
        column = table["entities"].combine_chunks()
        entities = pc.list_flatten(column)
        owner = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy())
        hashes = np.array(
            [hash_of(f"{seed} {image_id}") for image_id in table["image_id"].to_pylist()], dtype=np.uint64
        )
        return cls(hashes, entities, owner, labels.of(entities.field("entity_id").to_pylist()))

    def capped(self, labels: Labels, options: LabelArguments) -> np.ndarray:
        """Places of the entities that have too many images."""
        return np.flatnonzero((self.labels >= 0) & (labels.images[self.labels] > options.max_images_per_entity))

    def image_hashes(self, places: np.ndarray) -> np.ndarray:
        """Hashes of some entities with their images, uint64; other entities have others of the same image."""
        found = self.entities.field("entity_id").take(pa.array(places)).dictionary_encode()
        of_entity = np.array([hash_of(entity_id) for entity_id in found.dictionary.to_pylist()], dtype=np.uint64)
        return mix(self.hashes[self.owner[places]] ^ of_entity[found.indices.to_numpy()])

    def kept(self, labels: Labels, options: LabelArguments) -> np.ndarray:
        """Whether each entity has a label and its image is among those that stay, [K]."""
        kept = self.labels >= 0
        if options.max_images_per_entity is not None:
            capped = self.capped(labels, options)
            kept[capped] = self.image_hashes(capped) <= labels.max_hashes[self.labels[capped]]
        return kept

    def is_drawn(self, options: LabelArguments) -> np.ndarray:
        """Whether each row is among those from which the validation split is taken, [R]."""
        return self.hashes < np.uint64(int(options.validation_fraction * 2**64))


def label_rows(table: pa.Table, *, labels: Labels, options: LabelArguments) -> tuple[pa.Table, dict[str, int]]:
    """Rows of a shard that keep at least one entity, and how many do not, by reason."""
    rows = FlatRows.of(table, labels, seed=options.seed)
    kept = rows.kept(labels, options)
    num_rows = len(rows.hashes)
    is_numbered = np.bincount(rows.owner, weights=rows.labels >= 0, minlength=num_rows) > 0
    lengths = np.bincount(rows.owner, weights=kept, minlength=num_rows).astype(np.int64)
    stays = np.bincount(rows.owner, weights=kept & labels.stays_in_train[rows.labels], minlength=num_rows) > 0
    is_validation = rows.is_drawn(options) & ~stays
    is_left = lengths > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths[is_left])]).astype(np.int32))
    columns = {
        "row": table["row"].to_numpy()[is_left],
        "split": np.where(is_validation, "validation", "train")[is_left],
        "entities": pa.ListArray.from_arrays(offsets, rows.entities.filter(pa.array(kept))),
        "entity_labels": pa.ListArray.from_arrays(offsets, pa.array(rows.labels[kept], pa.int64())),
    }
    dropped = {"entity too rare": int((~is_numbered).sum()), "over the cap": int((is_numbered & ~is_left).sum())}
    return pa.table(columns, schema=labeled_schema()), {reason: num for reason, num in dropped.items() if num}


def hash_of(key: str) -> int:
    """A number in [0, 2**64) for a string, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest(), "big")


def mix(values: np.ndarray) -> np.ndarray:
    """Numbers whose order says nothing about that of uint64 values, by the last steps of SplitMix64.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def entities_table(labels: Labels, kb: KnowledgeBase) -> pa.Table:
    """`entities.parquet`: row i is the entity with label i."""
    entity_ids = [entity_id.decode() for entity_id in labels.entity_ids.tolist()]
    rows = kb.rows_of(entity_ids).tolist()
    return pa.table(
        {
            "entity_label": np.arange(len(entity_ids), dtype=np.int64),
            "entity_id": entity_ids,
            "name": kb.column("name", rows),
            "description": kb.column("description", rows),
            "count": labels.kept,
        },
        schema=ENTITIES_TABLE,
    )
