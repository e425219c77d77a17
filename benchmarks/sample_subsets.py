"""Other versions of the sample's training data, for comparison only: true labels, fewer images, poorer texts."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.sample_runs import ROOT
from data_scripts.schema import ENTITIES_TABLE, ENTITY


PAIRS = ROOT / "sample_data" / "pairs" / "train.parquet"
ENTITIES = ROOT / "sample_data" / "entities.jsonl.gz"
GOLD = "gold_entity_id"
NAMELESS = ("IMG_{:04}.jpg", "image {}", "DSC{:05}", "untitled-{}.png", "photo for sale", "click to zoom")
BUILD_ID = {b"mofi.build_id": b"gold"}


def write_fewer_images(path: Path, *, fraction: float, seed: int = 0) -> Path:
    """Writes a random part of the training pairs."""
    pairs = pq.read_table(PAIRS)
    kept = np.sort(np.random.default_rng(seed).permutation(len(pairs))[: round(fraction * len(pairs))])
    return write(pairs.take(kept), path)


def write_fewer_entities(path: Path, *, fraction: float, seed: int = 0) -> Path:
    """Writes the training pairs of a random part of the entities, true ones."""
    pairs = pq.read_table(PAIRS)
    entity_ids = sorted(set(pairs[GOLD].to_pylist()))
    chosen = np.random.default_rng(seed).permutation(len(entity_ids))[: round(fraction * len(entity_ids))]
    kept = pa.array([entity_ids[place] for place in chosen])
    return write(pairs.filter(pa.compute.is_in(pairs[GOLD], value_set=kept)), path)


def write_poorer_texts(path: Path, *, fraction: float, seed: int = 0) -> Path:
    """Writes the training pairs with a random part of the texts replaced by ones that name nothing, as cameras do."""
    pairs, rng = pq.read_table(PAIRS), np.random.default_rng(seed)
    texts = np.array(pairs["alt_text"].to_pylist(), dtype=object)
    for row in rng.permutation(len(texts))[: round(fraction * len(texts))]:
        texts[row] = rng.choice(NAMELESS).format(rng.integers(10_000))
    place = pairs.schema.get_field_index("alt_text")
    return write(pairs.set_column(place, "alt_text", pa.array(texts.tolist(), pa.string())), path)


def write_gold_labels(folder: Path) -> Path:
    """Writes a dataset as an I2E build would, with every training pair and the true entity of its image."""
    pairs, known = pq.read_table(PAIRS), read_entities()
    gold = pairs[GOLD].to_pylist()
    entity_ids = sorted(set(gold))
    labels = {entity_id: label for label, entity_id in enumerate(entity_ids)}
    entities = [[known[entity_id] | {"similarity": 1.0}] for entity_id in gold]
    rows = pairs.select(["image_id", "image", "alt_text"])
    rows = rows.append_column("entities", pa.array(entities, pa.list_(ENTITY)))
    rows = rows.append_column("entity_labels", pa.array([[labels[i]] for i in gold], pa.list_(pa.int64())))
    table = [known[i] | {"entity_label": labels[i], "count": gold.count(i)} for i in entity_ids]
    write(rows.replace_schema_metadata(BUILD_ID), folder / "data" / "train-00000-of-00001.parquet")
    write(pa.Table.from_pylist(table, ENTITIES_TABLE).replace_schema_metadata(BUILD_ID), folder / "entities.parquet")
    return folder


def read_entities() -> dict[str, dict[str, str]]:
    """Id, name and description of the knowledge base's entities, by id."""
    with gzip.open(ENTITIES, "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        return {row["entity_id"]: {key: row[key] for key in ("entity_id", "name", "description")} for row in rows}


def write(table: pa.Table, path: Path) -> Path:
    """Writes a table in row groups that training can shuffle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=256)
    return path
