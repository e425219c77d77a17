"""Reads entity embeddings in the format of PyTorch-BigGraph."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data_scripts.knowledge_base.graph_embeddings import normalize_rows


def read_biggraph_embeddings(path: str, entity_ids: list[str]) -> np.ndarray:
    """Reads embeddings for the entities of the table; an entity without a vector gets zeros.

    Args:
        path: A `.tsv` or `.tsv.gz` with the entity id first, as PyTorch-BigGraph exports it; or `X.npy` or
            `X_vectors.npy` beside its list of entity ids, one per row, `X.json` or `X_names.json`, plain or gzipped.
            Ids may be written as `<http://www.wikidata.org/entity/Q31>`.

    Raises:
        ValueError: If rows and names do not agree, vectors differ in length, no entity of the table has a vector, or
            the file is of another kind.
    """
    rows_of = {entity_id: row for row, entity_id in enumerate(entity_ids)}
    source = Path(path)
    if not source.name.endswith((".npy", ".tsv", ".tsv.gz")):
        raise ValueError(
            f"{path} is no .npy, .tsv or .tsv.gz; `torchbiggraph_export_to_tsv` makes one of a checkpoint"
        )
    pairs = read_npy_pairs(source) if source.suffix == ".npy" else read_tsv_pairs(source)
    result: np.ndarray | None = None
    found = 0
    for name, vector in pairs:
        row = rows_of.get(name.rpartition("/")[2].strip("<>"))
        if row is None:
            continue
        if result is None:
            result = np.zeros((len(entity_ids), len(vector)), dtype=np.float32)
        if len(vector) != result.shape[1]:
            raise ValueError(f"{path}: {name} has {len(vector)} numbers, those before it {result.shape[1]}")
        result[row] = vector
        found += 1
    if result is None:
        raise ValueError(f"{path} has no vector for any of {len(entity_ids):,} entities; are its names entity ids?")
    return normalize_rows(result).astype(np.float16)


def read_npy_pairs(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and vectors of an `.npy` file with its list of names."""
    stem = source.stem.removesuffix("_vectors")
    names = (source.stem + ".json", f"{stem}.json", f"{stem}_names.json")
    places = (source.with_name(name + ending) for name in names for ending in ("", ".gz"))
    names_path = next((place for place in places if place.is_file()), None)
    if names_path is None:
        raise ValueError(f"{source} needs its names beside it: {stem}_names.json, a list of entity ids")
    with open_plain_or_gzip(names_path) as file:
        names = json.load(file)
    vectors = np.load(source, mmap_mode="r")
    if len(names) != len(vectors):
        raise ValueError(f"{source} has {len(vectors):,} rows but {names_path} has {len(names):,} names")
    yield from zip(names, vectors, strict=True)


def read_tsv_pairs(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and vectors of a tab-separated export; a leading line of two counts is skipped."""
    with open_plain_or_gzip(source) as lines:
        for line in lines:
            name, *values = line.rstrip("\n").split("\t")
            if len(values) > 1:
                yield name, np.array(values, dtype=np.float32)


def open_plain_or_gzip(path: Path) -> IO[str]:
    """Opens a text file, whether compressed or not."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
