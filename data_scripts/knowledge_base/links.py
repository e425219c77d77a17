"""The links between entities, and how much each says: what coherence is measured by where there are links."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np

from data_scripts.engine.files import write_array
from data_scripts.knowledge_base.array_pieces import offset_pieces, ranges, write_pieces
from data_scripts.knowledge_base.database import fetch_rows


CHUNK_ROWS = 100_000


def write_links(connection: duckdb.DuckDBPyConnection, folder: Path, *, num_rows: int) -> None:
    """Writes the arrays of `KnowledgeBase` that hold links, of the table `neighbors`.

    A link to what everything links to says little.
    """
    counts = np.zeros(num_rows, np.int64)

    def target_pieces() -> Iterator[np.ndarray]:
        for first, last in ranges(num_rows, CHUNK_ROWS):
            pairs = fetch_rows(connection, "SELECT row, target FROM neighbors", first, last)
            counts[first:last] = np.bincount(pairs["row"].to_numpy() - first, minlength=last - first)
            yield pairs["target"].to_numpy()

    write_pieces(folder / "link_targets.npy", target_pieces(), np.int32)
    offsets = np.concatenate(list(offset_pieces([counts])))
    write_array(folder / "link_offsets.npy", offsets)
    targets = np.load(folder / "link_targets.npy", mmap_mode="r" if offsets[-1] else None)
    in_degrees = np.zeros(num_rows, np.int64)
    for first, last in ranges(num_rows, CHUNK_ROWS):
        np.add.at(in_degrees, targets[offsets[first] : offsets[last]], 1)
    weights = np.log((1 + num_rows) / (1 + in_degrees)).astype(np.float32)
    write_array(folder / "link_weights.npy", weights)
    pieces = (
        link_norms(targets, offsets[first : last + 1], weights, first) for first, last in ranges(num_rows, CHUNK_ROWS)
    )
    write_pieces(folder / "link_norms.npy", pieces, np.float32)


def link_norms(targets: np.ndarray, offsets: np.ndarray, weights: np.ndarray, first: int) -> np.ndarray:
    """Length of the vector of each entity's weighted links and itself, float32, [entities of a chunk]."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    linked = weights[targets[offsets[0] : offsets[-1]]].astype(np.float64) ** 2
    # An entity is its own neighbor, so that two that link to one another share something.
    own = weights[first : first + len(offsets) - 1] ** 2.0
    return np.maximum(np.sqrt(np.bincount(owner, weights=linked, minlength=len(own)) + own), 1e-6).astype(np.float32)
