"""The links between entities, and how much each says: what coherence is measured by where there are links."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa


def link_table(table: pa.Table, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and entity rows of the links and types that lead to kept entities."""
    rows_of = {entity_id: row for row, entity_id in enumerate(ids)}
    offsets = np.zeros(table.num_rows + 1, dtype=np.int64)
    neighbours: list[int] = []
    pairs = zip(iterate_values(table["links"]), iterate_values(table["types"]), strict=True)
    for row, (links, types) in enumerate(pairs):
        neighbours += sorted({rows_of[target] for target in (*links, *types) if target in rows_of})
        offsets[row + 1] = len(neighbours)
    return offsets, np.array(neighbours, dtype=np.int32)


def link_arrays(links: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `KnowledgeBase` that hold links: a link to what everything links to says little."""
    offsets, targets = links
    num = len(offsets) - 1
    weights = np.log((1 + num) / (1 + np.bincount(targets, minlength=num))).astype(np.float32)
    # An entity is its own neighbor, so that two that link to one another share something.
    owner = np.repeat(np.arange(num), np.diff(offsets))
    squares = np.bincount(owner, weights=weights[targets].astype(np.float64) ** 2, minlength=num) + weights**2.0
    norms = np.maximum(np.sqrt(squares), 1e-6).astype(np.float32)
    return {"link_offsets": offsets, "link_targets": targets, "link_weights": weights, "link_norms": norms}


def iterate_values(column: pa.ChunkedArray) -> Iterator:
    """Values of a column, one chunk in memory at a time."""
    for chunk in column.chunks:
        for first in range(0, len(chunk), 10_000):
            yield from chunk.slice(first, 10_000).to_pylist()
