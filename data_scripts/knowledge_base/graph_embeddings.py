"""Entity embeddings for coherence: from the knowledge base's own links, or from a file of PyTorch-BigGraph."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np


# Our defaults; the paper does not say how its graph embeddings were trained.
DIMENSION = 64
LINK_WEIGHTS = (1.0, 0.5)
WORD_WEIGHTS = (0.3, 1.0, 1.0)
SEED = 0
MAX_GATHERED = 1_000_000


def embed_from_graph(
    links: tuple[np.ndarray, np.ndarray],
    tokens: tuple[np.ndarray, np.ndarray],
    *,
    inverse_frequency: np.ndarray,
    dimension: int = DIMENSION,
) -> np.ndarray:
    """Embeds entities so that those with common neighbours are near: very sparse random projection of the graph.

    The graph joins an entity with the entities it links to and with the words of its description and types; the words
    alone serve a knowledge base without links. Deterministic, one pass per propagation step, memory O(entities).

    Args:
        links: Offsets [entities + 1] and linked entity rows.
        tokens: Offsets [entities + 1] and hashed tokens.
        inverse_frequency: Weight of each token, [2**20].

    Returns:
        float16 [entities, dimension], unit length (zero for an entity without neighbours).

    Source: FastRP (https://arxiv.org/abs/1908.11512).
    """
    generator = np.random.default_rng(SEED)
    words = embed_from_words(tokens, generator, inverse_frequency=inverse_frequency, dimension=dimension)
    current = random_signs(generator, len(words), dimension)
    total = np.zeros_like(words)
    for weight in LINK_WEIGHTS:
        current = center_rows(sum_neighbours(links, current)) + words
        total += weight * normalize_rows(current)
    return normalize_rows(total).astype(np.float16)


def embed_from_words(
    tokens: tuple[np.ndarray, np.ndarray],
    generator: np.random.Generator,
    *,
    inverse_frequency: np.ndarray,
    dimension: int,
) -> np.ndarray:
    """Embeds entities by their words, and words by their entities in turn: what shares no word may yet be near.

    Returns:
        float32 [entities, dimension].
    """
    offsets, hashed = tokens
    used, word = np.unique(hashed, return_inverse=True)
    order = np.argsort(word, kind="stable")
    entity_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[order]
    word_offsets = np.searchsorted(word[order], np.arange(len(used) + 1))
    word_vectors = random_signs(generator, len(used), dimension)
    total = np.zeros((len(offsets) - 1, dimension), dtype=np.float32)
    for weight in WORD_WEIGHTS:
        entities = center_rows(sum_neighbours((offsets, word), word_vectors * inverse_frequency[used][:, None]))
        total += weight * entities
        word_vectors = normalize_rows(sum_neighbours((word_offsets, entity_of), entities))
    return normalize_rows(total)


def center_rows(rows: np.ndarray) -> np.ndarray:
    """Unit rows without what all have in common, which would make any two entities near; zero rows stay zero."""
    rows = normalize_rows(rows)
    filled = np.any(rows, axis=1, keepdims=True)
    mean = rows.sum(axis=0) / max(1, int(filled.sum()))
    return normalize_rows((rows - mean) * filled)


def random_signs(generator: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    """Rows of random signs."""
    return generator.integers(0, 2, (rows, dimension), dtype=np.int8).astype(np.float32) * 2 - 1


def sum_neighbours(adjacency: tuple[np.ndarray, np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """Sums, for every row of a sparse adjacency, the vectors of its neighbours; [rows, dimension]."""
    offsets, neighbours = adjacency
    result = np.zeros((len(offsets) - 1, vectors.shape[1]), dtype=np.float32)
    last = 0
    while last < len(result):
        first = last
        # As many rows as have MAX_GATHERED neighbours together, and at least one: memory does not grow with the table.
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + MAX_GATHERED, side="right")) - 1)
        part = neighbours[offsets[first] : offsets[last]]
        if len(part) == 0:
            continue
        lengths = np.diff(offsets[first : last + 1])
        filled = np.flatnonzero(lengths)
        starts = (offsets[first:last] - offsets[first])[filled]
        result[first + filled] = np.add.reduceat(vectors[part], starts, axis=0)
    return result


def normalize_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)


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
